// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* exec, fork and exit as they happen, and the processes that were there before. */
#include "common.h"
#include "tier.h"

/* What the file behind descriptor 0 is; src/record/process.rs has the same numbers. */
enum standard_input {
	INPUT_NONE = 0,
	INPUT_TERMINAL = 1,
	INPUT_SOCKET = 2,
	INPUT_PIPE = 3,
	INPUT_FILE = 4,
	INPUT_DEVICE = 5,
};

struct exec_detail {
	u32 standard_input;
	u32 zero;
};

/* The same with what the kernel tier decided. */
struct decided_detail {
	struct exec_detail exec;
	struct tier_detail tier;
};

SCRATCHES(exec_scratch, 1);

#define TIER_SLOT_EXEC 0

/* Its own, because the iterator can be preempted by an exec. There is one reader, so no need for one per CPU. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct scratch);
} task_scratch SEC(".maps");

WALK(walk_exec, exec_scratch)
TIER(tier_exec, exec_scratch)
WALK(walk_task, task_scratch)

/* A terminal's file leads to a structure that leads back to it; majors do not tell terminals from other devices. */
INLINE bool is_terminal(void *file)
{
	void *data = read(struct file, file, private_data);

	return data && (void *)read(struct tty_file_private, data, file) == file;
}

INLINE u32 standard_input(struct task_struct *task)
{
	struct files_struct *files = task->files;
	void *file = NULL, *inode;
	struct fdtable *table;

	if (!files)
		return INPUT_NONE;
	table = files->fdt;
	/* A table has room for a long's bits at least. */
	bpf_probe_read_kernel(&file, sizeof(file), table->fd);
	if (!file)
		return INPUT_NONE;
	inode = read(struct file, file, f_inode);
	switch (read(struct inode, inode, i_mode) & S_IFMT) {
	case S_IFSOCK:
		return INPUT_SOCKET;
	case S_IFIFO:
		return INPUT_PIPE;
	case S_IFCHR:
		return is_terminal(file) ? INPUT_TERMINAL : INPUT_DEVICE;
	case S_IFBLK:
		return INPUT_DEVICE;
	default:
		return INPUT_FILE;
	}
}

/* Comes before everything else in the tail. */
INLINE void add_detail(struct scratch *s, struct task_struct *task)
{
	struct exec_detail *detail = (void *)s->tail;

	detail->standard_input = standard_input(task);
	detail->zero = 0;
	s->record.detail_len = sizeof(*detail);
	s->pos = sizeof(*detail);
}

INLINE u16 add_file(struct scratch *s, struct file *file, int (*walk)(u32))
{
	struct record *r = &s->record;
	struct dentry *dentry = file->f_path.dentry;
	struct inode *inode = file->f_inode;
	bool detached = dentry->d_parent == dentry;
	u32 links = inode->i_nlink;
	u32 start = s->pos;
	u16 flags = FLAG_FILE;

	r->inode = inode->i_ino;
	r->device = inode->i_sb->s_dev;
	if (detached && links == 0 && is_memfd(dentry->d_name.name))
		flags |= FLAG_MEMFD;
	if (links == 0 || (!detached && !dentry->d_hash.pprev))
		flags |= FLAG_DELETED;
	flags |= add_path(s, dentry, file->f_path.mnt, FLAG_PATH_CUT, walk, 0);
	r->path_len = s->pos - start;
	return flags;
}

INLINE u16 add_cwd(struct scratch *s, struct task_struct *task, int (*walk)(u32))
{
	struct fs_struct *fs = task->fs;
	struct dentry *dentry;
	u32 start = s->pos;
	u16 flags;

	if (!fs)
		return FLAG_PATH2_UNKNOWN;
	dentry = fs->pwd.dentry;
	if (!dentry)
		return FLAG_PATH2_UNKNOWN;
	flags = add_path(s, dentry, fs->pwd.mnt, FLAG_PATH2_CUT, walk, 0);
	s->record.path2_len = s->pos - start;
	return flags;
}

INLINE u16 add_invoked(struct scratch *s, const char *name)
{
	u32 pos = s->pos;
	long len;

	if (pos > TAIL_BYTES - INVOKED_BYTES)
		return FLAG_NAME_UNKNOWN;
	len = bpf_probe_read_kernel_str(s->tail + pos, INVOKED_BYTES, name);
	if (len <= 0 || len >= INVOKED_BYTES)
		return FLAG_NAME_UNKNOWN;
	s->record.name_len = len - 1;
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
		flags = FLAG_TEXT_CUT;
	}
	size = len;
	opaque(size);
	opaque(pos);
	if (pos > TAIL_BYTES - ARGV_BYTES || size > ARGV_BYTES)
		return FLAG_TEXT_UNKNOWN;
	/* The kernel has just written these pages; only swap can have taken them away. */
	if (bpf_probe_read_user(s->tail + pos, size, (void *)start))
		return FLAG_TEXT_UNKNOWN;
	s->record.text_len = size;
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

/* The rest of what is told of an exec, behind the path of its file. */
INLINE u16 add_rest(struct scratch *s, struct task_struct *task, struct linux_binprm *bprm)
{
	const char *filename = bprm->filename;
	u16 flags;

	flags = add_cwd(s, task, walk_exec);
	flags |= add_invoked(s, filename);
	flags |= add_argv(s, task->mm);
	add_tty(s, task);
	if (bprm->interp != filename)
		flags |= FLAG_SCRIPT;
	return flags;
}

SEC("tp_btf/sched_process_exec")
int on_exec(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct linux_binprm *bprm = (void *)ctx[2];
	u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&exec_scratch, &zero);
	u16 flags;

	if (!s)
		return 0;
	fill(&s->record, task, RECORD_EXEC);
	add_detail(s, task);
	flags = add_file(s, bprm->file, walk_exec);
	emit(s, RECORD_EXEC, flags | add_rest(s, task, bprm));
	return 0;
}

/* The program of the parent. It stands behind the rest in the scratch, and what comes next overwrites it. */
INLINE void look_up_parent(struct tier_state *t, struct scratch *s, struct task_struct *task)
{
	struct task_struct *parent = task->real_parent;
	void *mm = read(struct task_struct, parent, mm);
	void *file = read(struct mm_struct, mm, exe_file);
	u32 from = s->pos;
	u16 cut = FLAG_PATH_CUT;

	t->file_inode = 0;
	if (file) {
		void *inode = read(struct file, file, f_inode);

		t->file_inode = read(struct inode, inode, i_ino);
		t->file_device = read(struct super_block, read(struct inode, inode, i_sb), s_dev);
		cut = add_raw_path(s, read(struct file, file, f_path.dentry), read(struct file, file, f_path.mnt),
				   FLAG_PATH_CUT, walk_exec, 0);
	}
	tier_exec_look_up(TIER_SLOT_EXEC, ROLE_PARENT, from, s->pos, !cut);
	s->pos = from;
}

/* Decides about the program whose path stands in the scratch from `from` on, and signals. */
INLINE void decide_exec(struct tier_state *t, struct scratch *s, struct task_struct *task, u32 from, u16 flags)
{
	u32 to = s->pos, known = !(flags & FLAG_PATH_CUT), signal;

	if (!tier_begin(t, TIER_EXEC))
		return;
	t->file_inode = s->record.inode;
	t->file_device = s->record.device;
	if (!tier_exec_look_up(TIER_SLOT_EXEC, ROLE_PROGRAM, from, to, known) && !(t->head.always_events & TIER_EXEC))
		return;
	tier_process(t, &s->record);
	t->inode = s->record.inode;
	t->device = tier_device(s->record.device);
	t->memfd = flags & FLAG_MEMFD;
	t->deleted = flags & FLAG_DELETED;
	if (t->head.parents & TIER_EXEC)
		look_up_parent(t, s, task);
	tier_ask_role(TIER_SLOT_EXEC, ROLE_PROGRAM);
	tier_ask_always(TIER_SLOT_EXEC);
	signal = t->wanted & ACTION_SIGNAL;
	if (!signal)
		return;
	if (tier_exec_guarded(TIER_SLOT_EXEC, from, to, known))
		tier_conclude(t, RESULT_GUARDED);
	else if (bpf_send_signal(signal))
		tier_conclude(t, RESULT_FAILED);
}

/* The same as on_exec() for a sensor with a kernel tier: the signal is sent before anything else is looked at. */
SEC("tp_btf/sched_process_exec")
int on_exec_decided(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct linux_binprm *bprm = (void *)ctx[2];
	u32 zero = 0, slot = TIER_SLOT_EXEC;
	struct scratch *s = bpf_map_lookup_elem(&exec_scratch, &zero);
	struct tier_state *t = bpf_map_lookup_elem(&tier_states, &slot);
	struct decided_detail *detail;
	u16 flags;

	if (!s || !t)
		return 0;
	fill(&s->record, task, RECORD_EXEC);
	add_detail(s, task);
	s->record.detail_len = sizeof(*detail);
	s->pos = sizeof(*detail);
	flags = add_file(s, bprm->file, walk_exec);
	decide_exec(t, s, task, sizeof(*detail), flags);
	detail = (void *)s->tail;
	detail->tier = t->detail;
	flags |= add_rest(s, task, bprm);
	if (t->detail.verdicts)
		emit_decided(s, 0, RECORD_EXEC, flags);
	else
		emit(s, RECORD_EXEC, flags);
	return 0;
}

/* As src/record/crash.rs sees it. */
INLINE bool is_crash(u32 exit_status)
{
	u32 signals = 1 << SIGILL | 1 << SIGABRT | 1 << SIGBUS | 1 << SIGFPE | 1 << SIGSEGV;

	return signals >> (exit_status & 0x1f) & 1 && (exit_status & 0x7f) < 32;
}

INLINE u64 budget_of_task(struct task_struct *task)
{
	return budget(task->cgroups->dfl_cgrp->kn->id, legacy_cgroup_of(task));
}

/* A record without strings. */
INLINE void send(struct task_struct *task, u8 kind, struct task_struct *creator, u32 exit_status)
{
	struct record *r = NULL;

	if (admits(kind, sizeof(*r), budget_of_task(task))) {
		r = bpf_ringbuf_reserve(&process_ring, sizeof(*r), 0);
		if (!r)
			count_loss(kind, LOST_FULL);
	}
	if (r) {
		fill(r, task, kind);
		r->exit_status = exit_status;
		if (creator) {
			r->creator_pid = creator->tgid;
			r->creator_start = creator->group_leader->start_boottime;
		}
		bpf_ringbuf_submit(r, BPF_RB_NO_WAKEUP);
	}
	/* Nobody acts on the others at once: they can wait for the next exec, or until there are many. */
	wake(is_crash(exit_status) ? 0 : wake_bytes());
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
	add_detail(s, task);
	mm = task->mm;
	if (!(task->flags & PF_KTHREAD)) {
		file = mm ? mm->exe_file : NULL;
		flags |= file ? add_file(s, file, walk_task) : FLAG_PATH_UNKNOWN;
	}
	flags |= add_cwd(s, task, walk_task);
	add_tty(s, task);
	bpf_seq_write(ctx->meta->seq, s, finish(s, flags));
	return 0;
}
