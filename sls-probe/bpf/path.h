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
#ifdef SLS_PATH_TOPS
	s->walk.below = s->top;
	s->top = pos;
#endif
	s->pos = pos + (len & ~sign);
	return len;
}

/* Whether a file without a place in the tree is a memfd, by its name. */
INLINE bool is_memfd(const void *name)
{
	u64 start = 0;

	bpf_probe_read_kernel(&start, 6, name);
	return start == 0x3a64666d656dull; /* "memfd:" */
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

/* Goes on from `s->walk` for some steps. Returns whether there are more. All ways out of the loop are one, so that the
 * verifier follows what comes behind it once and not in each step. */
INLINE int walk_some(struct scratch *s)
{
	struct mount *mount = (void *)s->walk.mount, *above;
	struct dentry *root = (void *)s->walk.root;
	struct dentry *at = (void *)s->walk.at, *parent;
	u32 end = s->walk.end;
	long bad = 0;
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < STEPS_AT_ONCE; i++) {
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
	s->walk.mount = (u64)mount;
	s->walk.root = (u64)root;
	s->walk.at = (u64)at;
	if (bad < 0)
		s->walk.bad = 1;
	return i == STEPS_AT_ONCE;
}

/* Where the walk ended: returns whether the start of the path is missing. */
INLINE int walk_end(struct scratch *s)
{
	struct mount *mount = (void *)s->walk.mount;
	struct dentry *at = (void *)s->walk.at;

	if (s->walk.bad)
		return 1;
	if (s->walk.at == s->walk.root)
		return read(struct mount, mount, mnt_parent) != mount || is_nowhere(mount);
	if (s->pos >= s->walk.end || read(struct dentry, at, d_parent) != at)
		return 1;
	return add_detached(s, read(struct dentry, at, d_name.name));
}

/* For each map of scratches. These are global functions: the verifier looks at them once, and not at each call with
 * what it knows there; that is why the steps are a function of their own, which is called until there are no more. On 5.10
 * they can take numbers only, so what they start from is in the scratch. */
#define WALK(name, scratch_map)                                                \
	__attribute__((noinline)) int name##_some(u32 slot)                    \
	{                                                                      \
		struct scratch *s = bpf_map_lookup_elem(&scratch_map, &slot);  \
                                                                               \
		return s ? walk_some(s) : 0;                                   \
	}                                                                      \
	__attribute__((noinline)) int name(u32 slot)                           \
	{                                                                      \
		struct scratch *s = bpf_map_lookup_elem(&scratch_map, &slot);  \
                                                                               \
		if (!s)                                                        \
			return 1;                                              \
		s->walk.bad = 0;                                               \
		_Pragma("clang loop unroll(disable)")                          \
		for (int i = 0; i < PATH_STEPS / STEPS_AT_ONCE; i++) {         \
			if (!name##_some(slot))                                \
				break;                                         \
		}                                                              \
		return walk_end(s);                                            \
	}

/* Writes the components of a path at `s->pos`, leaf first, each with a NUL. Returns `cut` if the start is missing. */
INLINE u16 add_path(struct scratch *s, struct dentry *dentry, struct vfsmount *vfsmount, u16 cut, int (*walk)(u32), u32 slot)
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
	return walk(slot) ? cut : 0;
}

/* The same for pointers whose types the verifier does not know. */
INLINE u16 add_raw_path(struct scratch *s, void *dentry, void *vfsmount, u16 cut, int (*walk)(u32), u32 slot)
{
	s->walk.end = s->pos + PATH_BYTES;
	s->walk.at = (u64)dentry;
	s->walk.root = (u64)read(struct vfsmount, vfsmount, mnt_root);
	s->walk.mount = (u64)vfsmount - field_offset(struct mount, mnt);
	return walk(slot) ? cut : 0;
}

#endif
