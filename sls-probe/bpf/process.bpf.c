// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* exec, fork and exit as they happen, and the processes that were there before. */
#include "vmlinux_min.h"
#include "helpers.h"
#include "record.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct config config SEC(".rodata.config") = { .wake_bytes = 1 << 20 };

struct {
	MAP_UINT(type, BPF_MAP_TYPE_RINGBUF);
	MAP_UINT(max_entries, 8 << 20);
} ring SEC(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct scratch);
} exec_scratch SEC(".maps");

/* Its own, because the iterator can be preempted by an exec. There is one reader, so no need for one per CPU. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct scratch);
} task_scratch SEC(".maps");

#include "path.h"

WALK(walk_exec, exec_scratch)
WALK(walk_task, task_scratch)

/* Records lost, by kind. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, RECORD_KINDS);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u64);
} lost_records SEC(".maps");

/* Set by the reader before it blocks, cleared by whoever wakes it. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} dozing SEC(".maps");

INLINE u64 *lost_of(u32 kind)
{
	return bpf_map_lookup_elem(&lost_records, &kind);
}

/* Wakes the reader if it sleeps. Called after the record was committed: tested before, the reader could look at an
 * empty ring between the test and the commit, and then sleep on a full one. */
INLINE void wake(u64 enough)
{
	u32 zero = 0;
	u32 *dozes = bpf_map_lookup_elem(&dozing, &zero);
	void *bell;

	if (!dozes || !*(volatile u32 *)dozes)
		return;
	if (enough && bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) < enough)
		return;
	/* The record is already in the ring, so an empty one rings the bell. The reader never sees it. */
	bell = bpf_ringbuf_reserve(&ring, 8, 0);
	/* The ring is full: the next one has to try again. */
	if (!bell)
		return;
	*(volatile u32 *)dozes = 0;
	bpf_ringbuf_discard(bell, BPF_RB_FORCE_WAKEUP);
}

INLINE u32 pid_namespace_of(struct task_struct *leader)
{
	struct pid *pid = leader->thread_pid;
	u32 level = pid->level;
	void *upid, *ns = NULL;

	if (level == 0)
		return pid->numbers[0].ns->ns.inum;
	/* The array has one entry a level, whatever its type says; and old verifiers add no variable to a typed
	 * pointer. */
	upid = read(struct task_struct, leader, thread_pid);
	upid += field_offset(struct pid, numbers) + level * type_size(struct upid);
	bpf_probe_read_kernel(&ns, sizeof(ns), upid + field_offset(struct upid, ns));
	return read(struct pid_namespace, ns, ns.inum);
}

/* What every record has. Each member is written: the scratch still holds the last record. */
INLINE void fill(struct record *r, struct task_struct *task, u8 kind)
{
	struct task_struct *leader = task->group_leader;
	struct task_struct *parent = task->real_parent;
	struct pid *pid = leader->thread_pid;
	const struct cred *cred = task->cred;
	u64 *lost = lost_of(kind);

	r->len = sizeof(*r);
	r->kind = kind;
	r->version = RECORD_VERSION;
	r->flags = task->flags & PF_KTHREAD ? FLAG_KERNEL_THREAD : 0;
	r->time = bpf_ktime_get_boot_ns();
	r->lost = lost ? *(volatile u64 *)lost : 0;
	r->start = leader->start_boottime;
	r->pid = task->tgid;
	r->parent_pid = 0;
	r->parent_start = 0;
	if (parent) {
		r->parent_pid = parent->tgid;
		r->parent_start = parent->group_leader->start_boottime;
	}
	r->creator_pid = 0;
	r->creator_start = 0;
	r->pidfd_inode = 0;
	r->pid_namespace = 0;
	if (pid) {
		if (field_exists(pid->ino))
			r->pidfd_inode = pid->ino;
		r->pid_namespace = pid_namespace_of(leader);
	}
	/* A process on its way out has none any more. */
	r->mount_namespace = task->nsproxy ? task->nsproxy->mnt_ns->ns.inum : 0;
	r->cgroup_id = task->cgroups->dfl_cgrp->kn->id;
	r->uid = cred->uid.val;
	r->gid = cred->gid.val;
	r->euid = cred->euid.val;
	r->egid = cred->egid.val;
	r->loginuid = ~0u;
	if (field_exists(task->loginuid))
		r->loginuid = task->loginuid.val;
	r->inode = 0;
	r->device = 0;
	r->exit_status = 0;
	r->exe_len = r->cwd_len = r->invoked_len = r->argv_len = r->tty_len = 0;
	r->zero0 = 0;
	r->zero1 = 0;
	bpf_probe_read_kernel(r->comm, sizeof(r->comm), task->comm);
}

INLINE u16 add_file(struct scratch *s, struct file *file, int (*walk)(void))
{
	struct record *r = &s->record;
	struct dentry *dentry = file->f_path.dentry;
	struct inode *inode = file->f_inode;
	bool detached = dentry->d_parent == dentry;
	u32 links = inode->i_nlink;
	u32 start = s->pos;
	u64 name = 0;
	u16 flags = FLAG_FILE;

	r->inode = inode->i_ino;
	r->device = inode->i_sb->s_dev;
	bpf_probe_read_kernel(&name, 6, dentry->d_name.name);
	if (detached && links == 0 && name == 0x3a64666d656dull) /* "memfd:" */
		flags |= FLAG_MEMFD;
	if (links == 0 || (!detached && !dentry->d_hash.pprev))
		flags |= FLAG_DELETED;
	flags |= add_path(s, dentry, file->f_path.mnt, FLAG_EXE_CUT, walk);
	r->exe_len = s->pos - start;
	return flags;
}

INLINE u16 add_cwd(struct scratch *s, struct task_struct *task, int (*walk)(void))
{
	struct fs_struct *fs = task->fs;
	struct dentry *dentry;
	u32 start = s->pos;
	u16 flags;

	if (!fs)
		return FLAG_CWD_UNKNOWN;
	dentry = fs->pwd.dentry;
	if (!dentry)
		return FLAG_CWD_UNKNOWN;
	flags = add_path(s, dentry, fs->pwd.mnt, FLAG_CWD_CUT, walk);
	s->record.cwd_len = s->pos - start;
	return flags;
}

INLINE u16 add_invoked(struct scratch *s, const char *name)
{
	u32 pos = s->pos;
	long len;

	if (pos > TAIL_BYTES - INVOKED_BYTES)
		return FLAG_INVOKED_UNKNOWN;
	len = bpf_probe_read_kernel_str(s->tail + pos, INVOKED_BYTES, name);
	if (len <= 0 || len >= INVOKED_BYTES)
		return FLAG_INVOKED_UNKNOWN;
	s->record.invoked_len = len - 1;
	s->pos = pos + len - 1;
	return 0;
}

INLINE u16 add_argv(struct scratch *s, struct mm_struct *mm)
{
	u64 start = mm->arg_start, len = mm->arg_end - start;
	u32 pos = s->pos, size;
	u16 flags = 0;

	if (len > ARGV_BYTES) {
		len = ARGV_BYTES;
		flags = FLAG_ARGV_CUT;
	}
	size = len;
	opaque(size);
	if (pos > TAIL_BYTES - ARGV_BYTES || size > ARGV_BYTES)
		return FLAG_ARGV_UNKNOWN;
	/* The kernel has just written these pages; only swap can have taken them away. */
	if (bpf_probe_read_user(s->tail + pos, size, (void *)start))
		return FLAG_ARGV_UNKNOWN;
	s->record.argv_len = size;
	s->pos = pos + size;
	return flags;
}

INLINE void add_tty(struct scratch *s, struct task_struct *task)
{
	struct tty_struct *tty = task->signal->tty;
	u32 pos = s->pos;
	long len;

	if (!tty || pos > TAIL_BYTES - TTY_BYTES)
		return;
	len = bpf_probe_read_kernel_str(s->tail + pos, TTY_BYTES, tty->name);
	if (len <= 0)
		return;
	s->record.tty_len = len - 1;
	s->pos = pos + len - 1;
}

/* The length of a finished record, in a form that the verifier accepts. */
INLINE u32 finish(struct scratch *s, u16 flags)
{
	u32 pos = s->pos;

	if (pos > TAIL_BYTES)
		pos = TAIL_BYTES;
	s->record.flags |= flags;
	s->record.len = sizeof(s->record) + pos;
	return sizeof(s->record) + pos;
}

SEC("tp_btf/sched_process_exec")
int on_exec(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct linux_binprm *bprm = (void *)ctx[2];
	const char *filename = bprm->filename;
	u32 zero = 0;
	u64 *lost;
	u16 flags;
	struct scratch *s = bpf_map_lookup_elem(&exec_scratch, &zero);

	if (!s)
		return 0;
	fill(&s->record, task, RECORD_EXEC);
	s->pos = 0;
	flags = add_file(s, bprm->file, walk_exec);
	flags |= add_cwd(s, task, walk_exec);
	flags |= add_invoked(s, filename);
	flags |= add_argv(s, task->mm);
	add_tty(s, task);
	if (bprm->interp != filename)
		flags |= FLAG_SCRIPT;
	if (bpf_ringbuf_output(&ring, s, finish(s, flags), BPF_RB_NO_WAKEUP)) {
		lost = lost_of(RECORD_EXEC);
		if (lost)
			__sync_fetch_and_add(lost, 1);
	}
	wake(0);
	return 0;
}

/* A record without strings. */
INLINE void send(struct task_struct *task, u8 kind, struct task_struct *creator, u32 exit_status)
{
	struct record *r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);
	u64 *lost;

	if (!r) {
		lost = lost_of(kind);
		if (lost)
			__sync_fetch_and_add(lost, 1);
	} else {
		fill(r, task, kind);
		r->exit_status = exit_status;
		if (creator) {
			r->creator_pid = creator->tgid;
			r->creator_start = creator->group_leader->start_boottime;
		}
		bpf_ringbuf_submit(r, BPF_RB_NO_WAKEUP);
	}
	/* Nobody acts on these at once: they can wait for the next exec, or until there are many. */
	wake(config.wake_bytes);
}

SEC("tp_btf/sched_process_fork")
int on_fork(u64 *ctx)
{
	struct task_struct *creator = (void *)ctx[0], *child = (void *)ctx[1];

	if (child->pid == child->tgid)
		send(child, RECORD_FORK, creator, 0);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int on_exit(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct signal_struct *signal = task->signal;

	if (config.exit_has_group_dead) {
		if (!(u8)ctx[1])
			return 0;
	} else if (signal->live.counter != 0) {
		return 0;
	}
	/* As the kernel's wait_task_zombie() computes it. */
	send(task, RECORD_EXIT, NULL,
	     signal->flags & SIGNAL_GROUP_EXIT ? signal->group_exit_code : task->group_leader->exit_code);
	return 0;
}

SEC("iter/task")
int on_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct mm_struct *mm;
	struct file *file;
	u32 zero = 0;
	u16 flags = 0;
	struct scratch *s;

	if (!task || task->pid != task->tgid)
		return 0;
	/* A zombie: it has no more to say, and its end was before the first event. */
	if (task->signal->live.counter == 0)
		return 0;
	s = bpf_map_lookup_elem(&task_scratch, &zero);
	if (!s)
		return 0;
	fill(&s->record, task, RECORD_BASELINE);
	s->pos = 0;
	mm = task->mm;
	if (!(task->flags & PF_KTHREAD)) {
		file = mm ? mm->exe_file : NULL;
		flags |= file ? add_file(s, file, walk_task) : FLAG_EXE_UNKNOWN;
	}
	flags |= add_cwd(s, task, walk_task);
	add_tty(s, task);
	bpf_seq_write(ctx->meta->seq, s, finish(s, flags));
	return 0;
}
