/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Records of a process that reaches into another: how the other is found, and what is said of it. The programs that send
 * RECORD_PTRACE include this, whichever object they are in. */
#ifndef SLS_TARGET_H
#define SLS_TARGET_H

/* src/record/ptrace.rs has the same numbers. */
enum ptrace_access {
	ACCESS_ATTACH = 0,
	ACCESS_SEIZE = 1,
	ACCESS_POKE = 2,
	ACCESS_VM_WRITE = 3,
	ACCESS_MEM_WRITE = 4,
};

/* The path of the record is the executable of the target. */
struct ptrace_detail {
	u64 target_start;
	u32 target_pid; /* 0: not known */
	u32 access;
};

/* A tree over 32 bits, with at least 4 a level. */
#define IDR_LEVELS 8
#define XA_INTERNAL_MAX 4096

/* The thread that the process which runs means by `number`, or NULL. As find_task_by_vpid() looks it up: in a radix tree,
 * which can change meanwhile, so the answer is checked. */
INLINE void *task_of_number(u32 number)
{
	void *task = (void *)bpf_get_current_task();
	void *pid = read(struct task_struct, task, thread_pid);
	u64 upid_at = innermost_upid(pid);
	void *ns = read(struct upid, pid + upid_at, ns);
	u64 entry = (u64)read(struct pid_namespace, ns, idr.idr_rt.xa_head);
	u64 index = number - read(struct pid_namespace, ns, idr.idr_base);
	u64 mask = __builtin_preserve_field_info(((struct xa_node *)0)->slots, FIELD_BYTE_SIZE) / sizeof(void *) - 1;
	void *found;

#pragma clang loop unroll(disable)
	for (int i = 0; i < IDR_LEVELS; i++) {
		void *node = (void *)entry - 2;
		u64 slot;

		if ((entry & 3) != 2 || entry <= XA_INTERNAL_MAX)
			break;
		slot = index >> read(struct xa_node, node, shift) & mask;
		entry = 0;
		bpf_probe_read_kernel(&entry, sizeof(entry),
				      node + field_offset(struct xa_node, slots) + slot * sizeof(entry));
	}
	if (!entry || entry & 3)
		return NULL;
	found = (void *)entry;
	if ((u32)read(struct upid, found + upid_at, nr) != number)
		return NULL;
	found = read(struct pid, found, tasks[0].first);
	return found ? found - field_offset(struct task_struct, pid_links) : NULL;
}

/* The detail of a record that was filled, and the target's executable. Returns flags. */
INLINE u16 add_target(struct scratch *s, void *target, u32 access, int (*walk)(u32), u32 slot)
{
	struct ptrace_detail *detail = (void *)s->tail;
	void *leader, *file;
	u16 flags;

	s->record.detail_len = sizeof(*detail);
	s->pos = sizeof(*detail);
	detail->access = access;
	detail->target_pid = 0;
	detail->target_start = 0;
	if (!target)
		return FLAG_PATH_UNKNOWN;
	leader = read(struct task_struct, target, group_leader);
	detail->target_pid = read(struct task_struct, target, tgid);
	detail->target_start = read(struct task_struct, leader, start_boottime);
	/* A process without memory is on its way out, or is the kernel's own. */
	file = read(struct mm_struct, read(struct task_struct, target, mm), exe_file);
	if (!file)
		return FLAG_PATH_UNKNOWN;
	flags = add_raw_path(s, read(struct file, file, f_path.dentry), read(struct file, file, f_path.mnt), FLAG_PATH_CUT,
			     walk, slot);
	s->record.path_len = s->pos - sizeof(*detail);
	return flags;
}

#endif
