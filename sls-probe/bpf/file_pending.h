/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What a thread is about to do to files, from where its permission is not yet checked to where it is done; and who opened
 * and wrote what. */
#ifndef SLS_FILE_PENDING_H
#define SLS_FILE_PENDING_H

#include "file.h"

/* Threads between the two at once; one that finds no room takes that of the thread that was longest not heard of. */
#define MAX_PENDING 4096
/* Files that were opened for writing, and processes that wrote to those of others. */
#define MAX_WRITTEN 65536

/* Where a function has its dentry (the last, if it has several) and its result: the kernels differ. By user space. */
struct proto {
	u8 dentry;
	u8 result;
	u8 pointer; /* the result is a dentry or an error */
	u8 zero;
};

enum proto_of {
	PROTO_CREATE,
	PROTO_MKNOD,
	PROTO_MKDIR,
	PROTO_RMDIR,
	PROTO_UNLINK,
	PROTO_SYMLINK,
	PROTO_LINK,
	PROTO_RENAME,
	PROTO_NOTIFY_CHANGE,
	PROTO_SETXATTR,
	PROTO_REMOVEXATTR,
	PROTO_SET_ACL,
	PROTO_REMOVE_ACL,
	PROTOS,
};

struct file_config {
	u16 writers; /* keep account of who opened a file */
	u16 chown_by_mount; /* security_path_chown has structures for arguments, which trampolines do not take before Linux 6.1 */
	struct proto protos[16];
};

const volatile struct file_config file_config SEC(".rodata.file") = {};

struct pending {
	u64 dentry; /* that of the function that does it; 0: nothing is pending */
	u64 mount; /* of the directory */
	u64 directory; /* or, for attributes, the file itself */
	u64 mount2;
	u64 directory2;
	u64 moved; /* the dentry that has the inode, if it is another */
	u64 inode; /* known before only (unlink) */
	u32 device;
	u32 operation;
	u32 mode;
	u32 uid;
	u32 gid;
	u32 flags; /* of the call */
	u8 name[NAME_BYTES];
	u8 name2[NAME_BYTES];
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, MAX_PENDING);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, struct pending);
} file_pending SEC(".maps");

const volatile struct pending file_blank SEC(".rodata.blank") = {};

/* The mount that the thread was last allowed to write to, and the internal one after that, if any. */
struct writable {
	u64 mount;
	u64 internal;
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, MAX_PENDING);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, struct writable);
} file_mounts SEC(".maps");

struct opened {
	u64 time; /* tells it from another file at the same address */
	u64 opener; /* start time of the process; 0: not known */
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, MAX_WRITTEN);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, struct opened);
} file_opened SEC(".maps");

struct writer {
	u64 file;
	u64 process;
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, MAX_WRITTEN);
	MAP_TYPE(key, struct writer);
	MAP_TYPE(value, u64);
} file_writers SEC(".maps");

/* The argument with the number `n`, which is known when the program is verified. The compiler must not make one load at a
 * variable place of these. */
#define ARG(number, offset)                                                            \
	if (n == number) {                                                             \
		asm volatile("%0 = *(u64 *)(%1 + " #offset ")" : "=r"(value) : "r"(ctx)); \
		return value;                                                          \
	}

INLINE u64 arg(u64 *ctx, u32 n)
{
	u64 value = 0;

	ARG(0, 0)
	ARG(1, 8)
	ARG(2, 16)
	ARG(3, 24)
	ARG(4, 32)
	ARG(5, 40)
	ARG(6, 48)
	ARG(7, 56)
	return value;
}

INLINE u64 dentry_of(u64 *ctx, enum proto_of proto)
{
	return arg(ctx, file_config.protos[proto].dentry);
}

INLINE bool succeeded(u64 *ctx, enum proto_of proto)
{
	u64 result = arg(ctx, file_config.protos[proto].result);

	if (file_config.protos[proto].pointer)
		return (s64)result >= 0 || (s64)result < -4095;
	return (u32)result == 0;
}

INLINE struct pending *note(u32 operation, u64 dentry)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct pending *p;

	if (!wants(operation))
		return NULL;
	p = bpf_map_lookup_elem(&file_pending, &thread);
	if (!p) {
		bpf_map_update_elem(&file_pending, &thread, (const void *)&file_blank, 0);
		p = bpf_map_lookup_elem(&file_pending, &thread);
		if (!p) {
			count_loss(RECORD_FILE, LOST_UNTRACKED);
			return NULL;
		}
	}
	p->dentry = dentry;
	p->operation = operation;
	p->moved = 0;
	p->directory2 = 0;
	p->flags = 0;
	p->inode = 0;
	return p;
}

INLINE struct pending *noted(u64 dentry, u32 operations)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct pending *p = bpf_map_lookup_elem(&file_pending, &thread);

	if (!p || !dentry || p->dentry != dentry || !(operations >> (p->operation & 31) & 1))
		return NULL;
	return p;
}

INLINE void note_name(struct pending *p, struct path *directory, struct dentry *dentry)
{
	p->mount = (u64)directory->mnt;
	p->directory = (u64)directory->dentry;
	bpf_probe_read_kernel_str(p->name, NAME_BYTES, dentry->d_name.name);
}

INLINE void note_name2(struct pending *p, struct path *directory, struct dentry *dentry)
{
	p->mount2 = (u64)directory->mnt;
	p->directory2 = (u64)directory->dentry;
	bpf_probe_read_kernel_str(p->name2, NAME_BYTES, dentry->d_name.name);
}

INLINE int note_child(u32 operation, struct path *directory, struct dentry *dentry)
{
	struct pending *p = note(operation, (u64)dentry);

	if (p)
		note_name(p, directory, dentry);
	return 0;
}

/* The inode is gone when it is done. */
INLINE int note_removal(struct path *directory, struct dentry *dentry)
{
	struct pending *p = note(FILE_UNLINK, (u64)dentry);
	struct inode *inode;

	if (!p)
		return 0;
	note_name(p, directory, dentry);
	inode = dentry->d_inode;
	if (!inode)
		return 0;
	p->inode = inode->i_ino;
	p->device = inode->i_sb->s_dev;
	p->mode = inode->i_mode;
	p->uid = inode->i_uid.val;
	p->gid = inode->i_gid.val;
	return 0;
}

/* The functions that set extended attributes have no mount. It is the one that the thread was allowed to write to just
 * before, if that is of the same file system. */
INLINE int note_mount(u64 vfsmount)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct writable *known = bpf_map_lookup_elem(&file_mounts, &thread), new = {};
	bool internal = is_internal(vfsmount);

	if (known && internal) {
		known->internal = vfsmount;
	} else if (known) {
		known->mount = vfsmount;
		known->internal = 0;
	} else if (!internal) {
		new.mount = vfsmount;
		bpf_map_update_elem(&file_mounts, &thread, &new, 0);
	}
	return 0;
}

/* 0 if it is not known, or if overlayfs does this to a layer, through a mount of its own. */
INLINE u64 mount_of(u64 dentry)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct writable *known = bpf_map_lookup_elem(&file_mounts, &thread);
	void *super = read(struct dentry, dentry, d_sb);

	if (!known || !known->mount || read(struct vfsmount, known->mount, mnt_sb) != super)
		return 0;
	if (known->internal && read(struct vfsmount, known->internal, mnt_sb) == super)
		return 0;
	return known->mount;
}

INLINE u64 process_start(void)
{
	void *task = (void *)bpf_get_current_task();
	void *leader = read(struct task_struct, task, group_leader);

	return read(struct task_struct, leader, start_boottime);
}

#endif
