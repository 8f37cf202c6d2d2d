/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Walks from a dentry up to the root of its mount namespace. bpf_d_path would do it, but not from a tracepoint. */
#ifndef SLS_PATH_H
#define SLS_PATH_H

/* Adds one name, and nothing if it cannot be read; negative then. Without a branch: the verifier follows each of them,
 * in each step. */
INLINE long add_name(struct scratch *s, const void *name)
{
	/* Always below the mask; the verifier needs it. */
	u32 pos = s->pos & POS_MASK;
	long len = bpf_probe_read_kernel_str(s->tail + pos, NAME_BYTES, name);
	long sign = len >> 63;

	opaque(sign);
	s->pos = pos + (len & ~sign);
	return len;
}

/* A dentry without a parent that is not the root of its mount: a memfd and its like have their name in it, a file that
 * a network file system opened by handle has "/" or nothing. Returns whether the start of the path is missing. */
INLINE int add_detached(struct scratch *s, const void *name)
{
	char first = 0;

	bpf_probe_read_kernel(&first, 1, name);
	if (first == 0 || first == '/')
		return 1;
	return add_name(s, name) < 0;
}

/* At the root of the topmost mount: is that mount the root of a mount namespace, or a tree that is attached nowhere
 * (umount -l, open_tree) and says nothing about where the file lives? */
INLINE int is_nowhere(struct mount *mount)
{
	struct mnt_namespace *ns = read(struct mount, mount, mnt_ns);
	u32 inum;

	if (!ns)
		return 1;
	if ((s64)ns < 0 && (s64)ns > -4096) /* the kernel's own mounts */
		return 0;
	inum = read(struct mnt_namespace, ns, ns.inum);
	return inum == 0 || inum == MNT_NS_ANON_INO;
}

/* Goes on from `s->walk`. Returns whether the start of the path is missing. All ways out of the loop are one, so that the
 * verifier follows what comes behind it once and not in each step. */
INLINE int walk_up(struct scratch *s)
{
	struct mount *mount = (void *)s->walk.mount, *above;
	struct dentry *root = (void *)s->walk.root;
	struct dentry *at = (void *)s->walk.at, *parent;
	u32 end = s->walk.end;
	long bad = 0;
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < PATH_STEPS; i++) {
		if (at == root) {
			above = read(struct mount, mount, mnt_parent);
			if (above == mount)
				break;
			at = read(struct mount, mount, mnt_mountpoint);
			mount = above;
			root = read(struct mount, mount, mnt.mnt_root);
			continue;
		}
		parent = read(struct dentry, at, d_parent);
		if (parent == at || s->pos >= end)
			break;
		bad |= add_name(s, read(struct dentry, at, d_name.name));
		at = parent;
	}
	if (bad < 0)
		return 1;
	if (at == root)
		return read(struct mount, mount, mnt_parent) != mount || is_nowhere(mount);
	if (s->pos >= end || read(struct dentry, at, d_parent) != at)
		return 1;
	return add_detached(s, read(struct dentry, at, d_name.name));
}

/* For each of the two scratches. These are global functions: the verifier looks at them once, and not at each call with
 * what it knows there. On 5.10 they can take numbers only, so what they start from is in the scratch. */
#define WALK(name, scratch_map)                                                \
	__attribute__((noinline)) int name(void)                               \
	{                                                                      \
		u32 zero = 0;                                                  \
		struct scratch *s = bpf_map_lookup_elem(&scratch_map, &zero);  \
                                                                               \
		return s ? walk_up(s) : 1;                                     \
	}

/* Writes the components of a path at `s->pos`, leaf first, each with a NUL. Returns `cut` if the start is missing. */
INLINE u16 add_path(struct scratch *s, struct dentry *dentry, struct vfsmount *vfsmount, u16 cut, int (*walk)(void))
{
	struct dentry *root = vfsmount->mnt_root, *parent;

	s->walk.end = s->pos + PATH_BYTES;
	/* The verifier knows the types here, and loads are cheap. Most paths end there, but for the mounts. */
#pragma clang loop unroll(disable)
	for (int i = 0; i < QUICK_STEPS; i++) {
		if (dentry == root)
			break;
		parent = dentry->d_parent;
		if (parent == dentry)
			break;
		if (add_name(s, dentry->d_name.name) < 0)
			return cut;
		dentry = parent;
	}
	s->walk.at = (u64)dentry;
	s->walk.root = (u64)root;
	s->walk.mount = (u64)vfsmount - field_offset(struct mount, mnt);
	return walk() ? cut : 0;
}

#endif
