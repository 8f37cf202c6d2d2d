/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* File events from tracepoints of system calls, where there is nothing better. What has a descriptor is seen as the
 * kernel's own object; of what has a name, the name is copied when the call begins, and user space resolves it. */
#ifndef SLS_FILE_CALLS_H
#define SLS_FILE_CALLS_H

#include "file.h"

#define CALL_NAME_BYTES 4096
#define MAX_CALL_NUMBER 1024
/* Threads in such a call at once. User space makes it more for many processors. */
#define MAX_CALLS 256

/* What the arguments of a system call are, by number; NO_ARGUMENT if it has none of them. By user space. */
#define NO_ARGUMENT 7
#define CALL_KNOWN 1
#define CALL_FOLLOWS 2
struct call {
	u8 operation;
	u8 descriptor; /* of the file itself */
	u8 directory; /* that the name starts from; none: the working directory */
	u8 name;
	u8 directory2;
	u8 name2;
	u8 flags; /* that may say AT_EMPTY_PATH */
	u8 known; /* CALL_KNOWN, and CALL_FOLLOWS if it acts upon what the name links to */
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, MAX_CALL_NUMBER);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct call);
} file_calls SEC(".maps");

struct called {
	u64 arguments[8]; /* six; and none at NO_ARGUMENT */
	u32 number;
	s32 length; /* with the NUL; 0: not read */
	s32 length2;
	u32 zero;
	u8 name[CALL_NAME_BYTES];
	u8 name2[CALL_NAME_BYTES];
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, MAX_CALLS);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, struct called);
} file_called SEC(".maps");

const volatile struct called file_uncalled SEC(".rodata.uncalled") = {};

INLINE struct call *call_of(u64 number)
{
	u32 key = number;
	struct call *call = bpf_map_lookup_elem(&file_calls, &key);

	return call && call->known && wants(call->operation & 31) ? call : NULL;
}

SEC("tracepoint")
int on_call(void *ctx)
{
	u64 number = syscall_number(ctx), thread = bpf_get_current_pid_tgid();
	struct call *call = call_of(number);
	struct called *called;

	if (!call)
		return 0;
	called = bpf_map_lookup_elem(&file_called, &thread);
	if (!called) {
		bpf_map_update_elem(&file_called, &thread, (const void *)&file_uncalled, 0);
		called = bpf_map_lookup_elem(&file_called, &thread);
		if (!called)
			return 0;
	}
	/* Not all calls have six, and the verifier does not take what this one does not have. */
	bpf_probe_read_kernel(called->arguments, 6 * sizeof(u64), &syscall_argument(ctx, 0));
	called->number = number;
	called->length = called->length2 = 0;
	if (call->name != NO_ARGUMENT)
		called->length = bpf_probe_read_user_str(called->name, CALL_NAME_BYTES,
							 (void *)called->arguments[call->name & 7]);
	if (call->name2 != NO_ARGUMENT)
		called->length2 = bpf_probe_read_user_str(called->name2, CALL_NAME_BYTES,
							  (void *)called->arguments[call->name2 & 7]);
	return 0;
}

SEC("tracepoint")
int on_opened(void *ctx)
{
	s64 descriptor = syscall_result(ctx);
	void *file, *inode, *dentry, *mount;
	u32 mode, operation, len;
	struct scratch *s;
	u16 flags;

	if (descriptor < 0)
		return 0;
	file = file_of(descriptor);
	if (!file)
		return 0;
	mode = read(struct file, file, f_mode);
	if (!(mode & (FMODE_WRITE | FMODE_CREATED)))
		return 0;
	operation = mode & FMODE_CREATED ? FILE_CREATE : FILE_OPEN_WRITE;
	inode = read(struct file, file, f_inode);
	if (is_dull(read(struct inode, inode, i_mode), read(struct inode, inode, i_rdev)))
		return 0;
	dentry = read(struct file, file, f_path.dentry);
	mount = read(struct file, file, f_path.mnt);
	if (wants(FILE_MEMORY) && is_memory(inode, dentry))
		send_memory(SLOT_MEMORY, inode);
	if (!wants(operation) || is_internal((u64)mount))
		return 0;
	s = file_slot(SLOT_OPEN);
	if (!s)
		return 0;
	s->pos = sizeof(struct file_detail);
	begin_path(s);
	flags = add_raw_path(s, dentry, mount, FLAG_PATH_CUT, walk_file, SLOT_OPEN);
	len = s->pos - sizeof(struct file_detail);
	if (!wants_path(s, operation, flags & FLAG_PATH_CUT))
		return 0;
	begin(s, operation, 0);
	s->pos += len;
	s->record.path_len = len;
	emit(s, RECORD_FILE, flags | add_inode(s, inode));
	return 0;
}

/* The directory that a name starts from: the root of the process, the working directory, or an open one. Returns its
 * flags: `cut`, or the same shifted to "unknown". */
INLINE u16 add_start(struct scratch *s, u8 first, u32 descriptor, bool relative_to_descriptor, u16 cut)
{
	void *task = (void *)bpf_get_current_task(), *fs, *file, *dentry, *mount;

	if (first == '/' || !relative_to_descriptor || (s32)descriptor == AT_FDCWD) {
		fs = read(struct task_struct, task, fs);
		if (first == '/') {
			dentry = read(struct fs_struct, fs, root.dentry);
			mount = read(struct fs_struct, fs, root.mnt);
		} else {
			dentry = read(struct fs_struct, fs, pwd.dentry);
			mount = read(struct fs_struct, fs, pwd.mnt);
		}
	} else {
		file = file_of(descriptor);
		dentry = read(struct file, file, f_path.dentry);
		mount = read(struct file, file, f_path.mnt);
	}
	if (!dentry)
		return cut == FLAG_PATH_CUT ? FLAG_PATH_UNKNOWN : FLAG_PATH2_UNKNOWN;
	return add_raw_path(s, dentry, mount, cut, walk_file, SLOT_CALL);
}

/* The name itself; its length, 0 if it cannot be had. */
INLINE u32 add_passed(struct scratch *s, u8 *name, s32 length)
{
	u32 pos = s->pos, size = length - 1;

	opaque(size);
	if (length <= 1 || size >= CALL_NAME_BYTES || pos > TAIL_BYTES - CALL_NAME_BYTES)
		return 0;
	if (bpf_probe_read_kernel(s->tail + pos, size, name))
		return 0;
	s->pos = pos + size;
	return size;
}

/* `swapped`: of the other file in an exchange of names. */
INLINE void report_call(struct call *call, struct called *called, bool swapped)
{
	struct scratch *s = file_slot(SLOT_CALL);
	u8 *name = swapped ? called->name2 : called->name, *name2 = swapped ? called->name : called->name2;
	s32 length = swapped ? called->length2 : called->length, length2 = swapped ? called->length : called->length2;
	u8 directory = swapped ? call->directory2 : call->directory;
	u8 directory2 = swapped ? call->directory : call->directory2;
	bool by_descriptor = call->descriptor != NO_ARGUMENT, second = call->name2 != NO_ARGUMENT;
	u32 descriptor = called->arguments[call->descriptor & 7];
	u32 start, bits = 0, said = 0;
	struct file_detail *detail;
	u16 flags = 0;
	void *file;

	if (!s)
		return;
	if (call->flags != NO_ARGUMENT)
		said = called->arguments[call->flags & 7];
	/* The file is that of the directory's descriptor. */
	if (said & AT_EMPTY_PATH && length <= 1) {
		by_descriptor = 1;
		descriptor = called->arguments[directory & 7];
	}
	if (second)
		bits |= FILE_SECOND | FILE_PASSED2;
	if (!by_descriptor)
		bits |= FILE_PASSED;
	if (call->known & CALL_FOLLOWS ? !(said & AT_SYMLINK_NOFOLLOW) : said & AT_SYMLINK_FOLLOW)
		bits |= FILE_FOLLOW;
	detail = begin(s, call->operation, bits);
	start = s->pos;
	if (by_descriptor) {
		file = file_of(descriptor);
		/* Of pipes and sockets there is no name. */
		if (is_internal((u64)read(struct file, file, f_path.mnt)))
			return;
		flags |= add_inode(s, read(struct file, file, f_inode));
		begin_path(s);
		flags |= add_raw_path(s, read(struct file, file, f_path.dentry), read(struct file, file, f_path.mnt),
				      FLAG_PATH_CUT, walk_file, SLOT_CALL);
	} else {
		flags |= add_start(s, name[0], called->arguments[directory & 7], directory != NO_ARGUMENT, FLAG_PATH_CUT);
	}
	s->record.path_len = s->pos - start;
	/* Of names that are not resolved, nothing is known yet. */
	if (by_descriptor && !second && !wants_path(s, call->operation & 31, flags & FLAG_PATH_CUT))
		return;
	if (second) {
		start = s->pos;
		flags |= add_start(s, name2[0], called->arguments[directory2 & 7], directory2 != NO_ARGUMENT,
				   FLAG_PATH2_CUT);
		s->record.path2_len = s->pos - start;
	}
	if (!by_descriptor) {
		/* It follows the name in each of these calls. */
		if (call->operation == FILE_CHMOD) {
			detail->mode = called->arguments[(call->name + 1) & 7];
			detail->bits |= FILE_MODE;
		}
		flags |= FLAG_UNTRUSTED;
		s->record.name_len = add_passed(s, name, length);
		if (!s->record.name_len)
			flags |= FLAG_NAME_UNKNOWN;
	}
	if (second) {
		flags |= FLAG_UNTRUSTED;
		s->record.text_len = add_passed(s, name2, length2);
		if (!s->record.text_len)
			flags |= FLAG_TEXT_UNKNOWN;
	}
	emit(s, RECORD_FILE, flags);
}

/* A name that could not be read when the call began: never touched by the process before, perhaps. Now the kernel has. */
INLINE void read_late(struct called *called, u8 *name, s32 *length, u8 argument)
{
	if (*length < 0)
		*length = bpf_probe_read_user_str(name, CALL_NAME_BYTES, (void *)called->arguments[argument & 7]);
}

INLINE bool is_settled(void)
{
	u32 zero = 0;
	struct file_filter *filter = bpf_map_lookup_elem(&file_filter, &zero);

	return filter && bpf_ktime_get_boot_ns() >= filter->settled;
}

SEC("tracepoint")
int on_called(void *ctx)
{
	u64 number = syscall_number(ctx), thread = bpf_get_current_pid_tgid();
	struct called *called;
	struct call *call;

	if (syscall_result(ctx) != 0)
		return 0;
	call = call_of(number);
	if (!call)
		return 0;
	called = bpf_map_lookup_elem(&file_called, &thread);
	/* It began before there was somebody to see it, or its place was needed. */
	if (!called || called->number != (u32)number) {
		if (is_settled())
			count_loss(RECORD_FILE, LOST_UNTRACKED);
		return 0;
	}
	read_late(called, called->name, &called->length, call->name);
	read_late(called, called->name2, &called->length2, call->name2);
	report_call(call, called, 0);
	if (call->operation == FILE_RENAME && call->flags != NO_ARGUMENT &&
	    called->arguments[call->flags & 7] & RENAME_EXCHANGE)
		report_call(call, called, 1);
	called->number = ~0u;
	return 0;
}

#endif
