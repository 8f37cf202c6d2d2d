/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What both families of file events have: the detail, what is wanted, names of files and what is known of them. */
#ifndef SLS_FILE_H
#define SLS_FILE_H

#define SLS_PATH_TOPS
#include "common.h"
#include "syscall.h"
#include "target.h"

/* In the order of the values of `fileOperation`. */
enum file_operation {
	FILE_CREATE = 0,
	FILE_OPEN_WRITE = 1,
	FILE_OPEN_READ = 2,
	FILE_WRITE = 3,
	FILE_RENAME = 4,
	FILE_LINK = 5,
	FILE_SYMLINK = 6,
	FILE_UNLINK = 7,
	FILE_TRUNCATE = 8,
	FILE_CHMOD = 9,
	FILE_CHOWN = 10,
	FILE_SETXATTR = 11,
	/* Not of a file: memory of a process, through /proc/PID/mem. */
	FILE_MEMORY = 31,
};

enum file_bit {
	/* `mode`, `uid` and `gid` are set. */
	FILE_ATTRIBUTES = 1 << 0,
	/* There is a second name (rename, link). */
	FILE_SECOND = 1 << 1,
	/* `path` is the directory that `name` starts from, `path2` the one that `text` starts from: a name as it was passed. */
	FILE_PASSED = 1 << 2,
	FILE_PASSED2 = 1 << 3,
	/* The call acted upon what the name links to. */
	FILE_FOLLOW = 1 << 4,
	FILE_MODE = 1 << 5, /* `mode` is what was asked for; nothing else is known of the file */
};

struct file_detail {
	u32 operation;
	u32 bits;
	u32 mode;
	u32 uid;
	u32 gid;
	u32 zero;
};

_Static_assert(sizeof(struct file_detail) == 24, "src/record/file.rs counts on it");

/* What is wanted; user space changes it while the programs run. */
struct file_filter {
	u32 operations; /* 1 << enum file_operation */
	u32 any_path; /* the same: those for which file_tops says nothing */
	u64 settled; /* CLOCK_BOOTTIME: a call that ends before that may have begun before it was watched */
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct file_filter);
} file_filter SEC(".maps");

#define TOP_BYTES 64
#define MAX_TOPS 256

/* What is wanted below a directory: its name, or its name and another below it ("usr/bin"), padded with NULs; and the
 * operations. */
struct file_top {
	u8 name[TOP_BYTES];
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_TOPS);
	MAP_TYPE(key, struct file_top);
	MAP_TYPE(value, u32);
} file_tops SEC(".maps");

/* One a program; see common.h. */
enum file_slot {
	SLOT_OPEN,
	SLOT_WRITE,
	SLOT_CREATE,
	SLOT_MKNOD,
	SLOT_MKDIR,
	SLOT_RMDIR,
	SLOT_UNLINK,
	SLOT_SYMLINK,
	SLOT_LINK,
	SLOT_RENAME,
	SLOT_ATTRIBUTES,
	SLOT_SETXATTR,
	SLOT_REMOVEXATTR,
	SLOT_SET_ACL,
	SLOT_REMOVE_ACL,
	SLOT_MEMORY,
	SLOTS,
	/* The other family uses the same. */
	SLOT_CALL = SLOT_UNLINK,
};

SCRATCHES(file_scratch, SLOTS);
WALK(walk_file, file_scratch)

INLINE struct scratch *file_slot(u32 slot)
{
	return bpf_map_lookup_elem(&file_scratch, &slot);
}

INLINE bool wants(u32 operation)
{
	u32 zero = 0;
	struct file_filter *filter = bpf_map_lookup_elem(&file_filter, &zero);

	return filter && (*(volatile u32 *)&filter->operations >> operation & 1);
}

/* Mounts of the kernel's own: of pipes, sockets, memfds, and those through which overlayfs reaches its layers. */
INLINE bool is_internal(u64 vfsmount)
{
	void *mount = (void *)(vfsmount - field_offset(struct mount, mnt));
	s64 ns = (s64)read(struct mount, mount, mnt_ns);

	return ns < 0 && ns > -4096;
}

/* Devices that everybody writes to all the time: null, zero, full, random, urandom, and terminals. */
INLINE bool is_dull_device(u32 rdev)
{
	u32 major = rdev >> 20, minor = rdev & 0xfffff;

	if (major == 1)
		return minor == 3 || minor == 5 || (minor >= 7 && minor <= 9);
	if (major == 5)
		return minor <= 2;
	return major >= 136 && major <= 143;
}

INLINE bool is_dull(u32 mode, u32 rdev)
{
	u32 type = mode & S_IFMT;

	return type == S_IFIFO || type == S_IFSOCK || (type == S_IFCHR && is_dull_device(rdev));
}

#define NO_NAME ~0u

/* To be called before a path is added, so that wants_path() knows where its first names are. */
INLINE void begin_path(struct scratch *s)
{
	s->top = s->walk.below = NO_NAME;
}

/* Whether the path that was just added is one of those wanted. What is missing of it could be. */
INLINE bool wants_path(struct scratch *s, u32 operation, bool cut)
{
	u32 zero = 0, top = s->top, below = s->walk.below;
	struct file_filter *filter = bpf_map_lookup_elem(&file_filter, &zero);
	/* Names and their paths do not reach so far. */
	u8 *key = s->tail + TAIL_BYTES - 3 * TOP_BYTES;
	u32 *operations;
	long len;

	if (!filter || cut || top == NO_NAME || *(volatile u32 *)&filter->any_path >> operation & 1)
		return 1;
	__builtin_memset(key, 0, TOP_BYTES);
	len = bpf_probe_read_kernel_str(key, TOP_BYTES, s->tail + (top & POS_MASK));
	operations = bpf_map_lookup_elem(&file_tops, key);
	if (operations && *operations >> operation & 1)
		return 1;
	if (below == NO_NAME || len <= 1 || len >= TOP_BYTES)
		return 0;
	key[(len - 1) & (TOP_BYTES - 1)] = '/';
	bpf_probe_read_kernel_str(key + (len & (TOP_BYTES - 1)), TOP_BYTES, s->tail + (below & POS_MASK));
	operations = bpf_map_lookup_elem(&file_tops, key);
	return operations && *operations >> operation & 1;
}

/* The record without its strings. */
INLINE struct file_detail *begin(struct scratch *s, u32 operation, u32 bits)
{
	struct file_detail *detail = (void *)s->tail;

	fill_current(&s->record, RECORD_FILE);
	s->record.detail_len = sizeof(*detail);
	s->pos = sizeof(*detail);
	detail->operation = operation;
	detail->bits = bits;
	detail->mode = detail->uid = detail->gid = detail->zero = 0;
	return detail;
}

/* What is known of a file from its inode; returns flags. */
INLINE u16 add_inode(struct scratch *s, void *inode)
{
	struct file_detail *detail = (void *)s->tail;
	void *super;

	if (!inode)
		return 0;
	super = read(struct inode, inode, i_sb);
	s->record.inode = read(struct inode, inode, i_ino);
	s->record.device = read(struct super_block, super, s_dev);
	detail->mode = read(struct inode, inode, i_mode);
	detail->uid = read(struct inode, inode, i_uid.val);
	detail->gid = read(struct inode, inode, i_gid.val);
	detail->bits |= FILE_ATTRIBUTES;
	return FLAG_FILE;
}

/* The process whose memory was opened: `inode` is its file below /proc. */
INLINE void send_memory(u32 slot, void *inode)
{
	void *pid = read(struct proc_inode, inode - field_offset(struct proc_inode, vfs_inode), pid);
	void *task = read(struct pid, pid, tasks[0].first);
	struct scratch *s = file_slot(slot);

	/* Without a task, it ended meanwhile. */
	if (!s || !task)
		return;
	task -= field_offset(struct task_struct, pid_links);
	fill_current(&s->record, RECORD_PTRACE);
	emit(s, RECORD_PTRACE, add_target(s, task, ACCESS_MEM_WRITE, walk_file, slot));
}

/* Whether an inode is /proc/PID/mem. */
INLINE bool is_memory(void *inode, void *dentry)
{
	void *super = read(struct inode, inode, i_sb);
	u32 name = 0;

	if (read(struct super_block, super, s_magic) != PROC_SUPER_MAGIC)
		return 0;
	bpf_probe_read_kernel(&name, sizeof(name), read(struct dentry, dentry, d_name.name));
	return name == 0x6d656d; /* "mem" */
}

#endif
