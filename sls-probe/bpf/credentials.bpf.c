// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* User ids that change without a set*id call and without a set-id program: as an exploit of the kernel changes them. What
 * each thread came by honestly is remembered, and compared with what it has when it forks, executes, ends, or asks for other
 * ids. */
#include "common.h"
#include "syscall.h"

/* Threads that are remembered. Those beyond are not judged, and counted as losses. */
#define KNOWN_THREADS 32768

enum { S_ISUID = 04000 };

/* Programs of 32 bits make system calls that have no tracepoints. */
#define TASK_SIZE_32 0x100000000ull

struct credentials_detail {
	u32 previous_uid;
	u32 previous_euid;
};

struct credentials_record {
	struct record record;
	struct credentials_detail detail;
};

/* What a thread came by honestly. */
struct ids {
	u64 start; /* of the thread: its number is reused */
	u32 uid;
	u32 euid;
	u32 is_32_bit;
	u32 zero;
};

/* By thread, as the first namespace counts them. A thread that ends is taken out. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, KNOWN_THREADS);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct ids);
} known_ids SEC(".maps");

/* Set by user space before the programs are loaded. */
struct calls {
	u32 all_seen; /* those of 32-bit programs as well */
	u32 zero;
};

const volatile struct calls set_id_calls SEC(".rodata.calls") = {};

INLINE void ids_of(void *task, struct ids *ids)
{
	void *cred = (void *)read(struct task_struct, task, real_cred);
	void *mm = (void *)read(struct task_struct, task, mm);

	ids->start = read(struct task_struct, task, start_boottime);
	ids->uid = read(struct cred, cred, uid.val);
	ids->euid = read(struct cred, cred, euid.val);
	ids->is_32_bit = mm && read(struct mm_struct, mm, task_size) <= TASK_SIZE_32;
	ids->zero = 0;
}

INLINE void learn(u32 thread, struct ids *ids, u64 flags)
{
	if (bpf_map_update_elem(&known_ids, &thread, ids, flags) && flags != BPF_NOEXIST)
		count_loss(RECORD_CREDENTIALS, LOST_UNTRACKED);
}

INLINE void tell(u32 uid, u32 euid)
{
	struct credentials_record *r = reserve(struct credentials_record, RECORD_CREDENTIALS);

	if (!r)
		return;
	r->detail.previous_uid = uid;
	r->detail.previous_euid = euid;
	submit(r);
}

/* Whether more can be done with `now` than with `before`, or as somebody else. */
INLINE bool is_rise(struct ids *before, struct ids *now)
{
	if (now->uid == 0 && before->uid != 0)
		return 1;
	if (now->euid == 0 && before->euid != 0)
		return 1;
	return now->uid != before->uid && before->uid != 0 && before->euid != 0;
}

/* Judges the thread that runs. What it has is what is known from then on: one event for each change. */
INLINE void judge(void)
{
	void *task = (void *)bpf_get_current_task();
	u32 thread = read(struct task_struct, task, pid);
	struct ids *known = bpf_map_lookup_elem(&known_ids, &thread);
	struct ids now, before;

	ids_of(task, &now);
	if (!known || known->start != now.start) {
		learn(thread, &now, 0);
		return;
	}
	if (known->uid == now.uid && known->euid == now.euid)
		return;
	before = *known;
	/* At its end a thread has no memory to look at. */
	now.is_32_bit = before.is_32_bit;
	learn(thread, &now, 0);
	if (is_rise(&before, &now) && (set_id_calls.all_seen || !before.is_32_bit))
		tell(before.uid, before.euid);
}

/* The thread that runs has been given what it has. */
INLINE void accept(void)
{
	void *task = (void *)bpf_get_current_task();
	struct ids now;

	ids_of(task, &now);
	learn(read(struct task_struct, task, pid), &now, 0);
}

SEC("tp_btf/sched_process_fork")
int on_fork(u64 *ctx)
{
	void *child = (void *)ctx[1];
	struct ids ids;

	/* Before the child inherits it. */
	judge();
	ids_of(child, &ids);
	learn(read(struct task_struct, child, pid), &ids, 0);
	return 0;
}

/* A program may have the effective id of its owner; the real one stays in any case. */
SEC("tp_btf/sched_process_exec")
int on_exec(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct linux_binprm *bprm = (void *)ctx[2];
	u32 thread = task->pid, before_exec = ctx[1];
	struct ids *known = bpf_map_lookup_elem(&known_ids, &before_exec);
	struct ids now, before;
	u32 mode, previous_euid;

	ids_of(task, &now);
	if (!known) {
		learn(thread, &now, 0);
		return 0;
	}
	before = *known;
	/* A thread that executes takes the number and the age of the leader. */
	if (before_exec != thread)
		bpf_map_delete_elem(&known_ids, &before_exec);
	else if (before.start != now.start)
		before = now;
	learn(thread, &now, 0);
	if (before.uid == now.uid && before.euid == now.euid)
		return 0;
	previous_euid = before.euid;
	mode = bprm->file->f_inode->i_mode;
	if (bprm->executable && bprm->executable->f_inode)
		mode |= bprm->executable->f_inode->i_mode;
	if (mode & S_ISUID)
		before.euid = now.euid;
	if (is_rise(&before, &now) && (set_id_calls.all_seen || !before.is_32_bit))
		tell(before.uid, previous_euid);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int on_exit(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	u32 thread = task->pid;

	judge();
	bpf_map_delete_elem(&known_ids, &thread);
	return 0;
}

/* Those that were there before. What is known already is newer. */
SEC("iter/task")
int on_thread(struct bpf_iter__task *ctx)
{
	void *task = ctx->task;
	u32 thread;
	struct ids ids;

	if (!task || read(struct task_struct, task, flags) & PF_EXITING)
		return 0;
	thread = read(struct task_struct, task, pid);
	ids_of(task, &ids);
	learn(thread, &ids, BPF_NOEXIST);
	/* Its end may have been before that, and takes nothing out any more. */
	if (read(struct task_struct, task, flags) & PF_EXITING)
		bpf_map_delete_elem(&known_ids, &thread);
	return 0;
}

/* The kernel found that the process may have these ids, and gives them to it. */
SEC("fexit/security_task_fix_setuid")
int fexit_set_id(u64 *ctx)
{
	void *task = (void *)bpf_get_current_task(), *cred = (void *)ctx[0];
	struct ids ids;

	/* What an exploit gave itself must not be taken for what it asks for. */
	judge();
	if ((int)ctx[3] != 0)
		return 0;
	ids_of(task, &ids);
	ids.uid = read(struct cred, cred, uid.val);
	ids.euid = read(struct cred, cred, euid.val);
	learn(read(struct task_struct, task, pid), &ids, 0);
	return 0;
}

#define SET_ID(call)                                           \
	SEC("tracepoint/syscalls/sys_enter_" #call)            \
	int enter_##call(void *ctx __attribute__((unused)))    \
	{                                                      \
		judge();                                       \
		return 0;                                      \
	}                                                      \
	SEC("tracepoint/syscalls/sys_exit_" #call)             \
	int exit_##call(void *ctx)                             \
	{                                                      \
		if (syscall_result(ctx) == 0)                  \
			accept();                              \
		return 0;                                      \
	}

SET_ID(setuid)
SET_ID(setreuid)
SET_ID(setresuid)
