/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What all objects share: configuration, the ring and its wake-up, and what every record has. User space creates the maps
 * here once and gives them to each object, so all objects write into one ring. */
#ifndef SLS_COMMON_H
#define SLS_COMMON_H

#include "vmlinux_min.h"
#include "helpers.h"
#include "record.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct config config SEC(".rodata.config") = { .wake_bytes = 1 << 20 };

struct {
	MAP_UINT(type, BPF_MAP_TYPE_RINGBUF);
	MAP_UINT(max_entries, 8 << 20);
} ring SEC(".maps");

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

INLINE void count_loss(u32 kind)
{
	u64 *lost = lost_of(kind);

	if (lost)
		__sync_fetch_and_add(lost, 1);
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

/* Where a `struct pid` has the number of its innermost namespace: the array has one entry a level, whatever its type says. */
INLINE u64 innermost_upid(void *pid)
{
	return field_offset(struct pid, numbers) + read(struct pid, pid, level) * type_size(struct upid);
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

/* Where engines keep their containers in a hierarchy of version 1. On other hosts nothing of this is left. */
INLINE u32 legacy_cgroup_of(void *task)
{
	void *css = NULL, *from;

	if (!config.legacy_controller)
		return 0;
	from = read(struct task_struct, task, cgroups);
	from += field_offset(struct css_set, subsys) + (config.legacy_controller - 1) * sizeof(css);
	bpf_probe_read_kernel(&css, sizeof(css), from);
	return read(struct kernfs_node, read(struct cgroup, read(struct cgroup_subsys_state, css, cgroup), kn), id);
}

/* What every record has. Each member is written: the scratch still holds the last record. */
INLINE void fill(struct record *r, struct task_struct *task, u8 kind)
{
	struct task_struct *leader = task->group_leader;
	struct task_struct *parent = task->real_parent;
	struct pid *pid = leader->thread_pid;
	const struct cred *cred = task->real_cred;
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
	r->path_len = r->path2_len = r->name_len = r->text_len = r->tty_len = r->detail_len = 0;
	r->legacy_cgroup = legacy_cgroup_of(task);
	bpf_probe_read_kernel(r->comm, sizeof(r->comm), task->comm);
}

/* One scratch a program and CPU. Programs of different hooks can interrupt each other, one program cannot interrupt
 * itself: so each has a slot of its own. */
#define SCRATCHES(name, slots)                                \
	struct {                                              \
		MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);    \
		MAP_UINT(max_entries, slots);                 \
		MAP_TYPE(key, u32);                           \
		MAP_TYPE(value, struct scratch);              \
	} name SEC(".maps")

/* The same as fill() for the process that runs, in programs that have no typed pointer to it (before Linux 5.11 none
 * has). Credentials are those of the process itself, not those that the kernel lends it for a moment. */
INLINE void fill_current(struct record *r, u8 kind)
{
	void *task = (void *)bpf_get_current_task();
	void *leader = read(struct task_struct, task, group_leader);
	void *parent = read(struct task_struct, task, real_parent);
	void *pid = read(struct task_struct, leader, thread_pid);
	void *cred = (void *)read(struct task_struct, task, real_cred);
	void *nsproxy = read(struct task_struct, task, nsproxy);
	void *cgroup, *ns;
	u64 *lost = lost_of(kind);

	r->len = sizeof(*r);
	r->kind = kind;
	r->version = RECORD_VERSION;
	r->flags = read(struct task_struct, task, flags) & PF_KTHREAD ? FLAG_KERNEL_THREAD : 0;
	r->time = bpf_ktime_get_boot_ns();
	r->lost = lost ? *(volatile u64 *)lost : 0;
	r->start = read(struct task_struct, leader, start_boottime);
	r->pid = read(struct task_struct, task, tgid);
	r->parent_pid = read(struct task_struct, parent, tgid);
	r->parent_start = read(struct task_struct, read(struct task_struct, parent, group_leader), start_boottime);
	r->creator_pid = 0;
	r->creator_start = 0;
	r->pidfd_inode = 0;
	if (field_exists(((struct pid *)0)->ino))
		r->pidfd_inode = read(struct pid, pid, ino);
	ns = read(struct upid, pid + innermost_upid(pid), ns);
	r->pid_namespace = read(struct pid_namespace, ns, ns.inum);
	r->mount_namespace = read(struct mnt_namespace, read(struct nsproxy, nsproxy, mnt_ns), ns.inum);
	cgroup = read(struct css_set, read(struct task_struct, task, cgroups), dfl_cgrp);
	r->cgroup_id = read(struct kernfs_node, read(struct cgroup, cgroup, kn), id);
	r->uid = read(struct cred, cred, uid.val);
	r->gid = read(struct cred, cred, gid.val);
	r->euid = read(struct cred, cred, euid.val);
	r->egid = read(struct cred, cred, egid.val);
	r->loginuid = ~0u;
	if (field_exists(((struct task_struct *)0)->loginuid))
		r->loginuid = read(struct task_struct, task, loginuid.val);
	r->inode = 0;
	r->device = 0;
	r->exit_status = 0;
	r->path_len = r->path2_len = r->name_len = r->text_len = r->tty_len = r->detail_len = 0;
	r->legacy_cgroup = legacy_cgroup_of(task);
	/* Programs of cgroups have no helper for it. */
	bpf_probe_read_kernel(r->comm, sizeof(r->comm), task + field_offset(struct task_struct, comm));
}

/* A record of `type`, which has a header and a detail and no strings, of the process that runs: straight in the ring, to be
 * sent by submit(). NULL if the ring is full; that is counted. */
#define reserve(type, kind)                                            \
	({                                                             \
		type *r_ = bpf_ringbuf_reserve(&ring, sizeof(type), 0); \
		if (r_) {                                              \
			fill_current(&r_->record, kind);               \
			r_->record.len = sizeof(type);                 \
			r_->record.detail_len = sizeof(r_->detail);    \
		} else {                                               \
			count_loss(kind);                              \
		}                                                      \
		r_;                                                    \
	})

/* Sends a record, and wakes the reader if it sleeps. */
INLINE void submit(void *record)
{
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	wake(0);
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

/* Sends what was built in a scratch, and wakes the reader if it sleeps. */
INLINE void emit(struct scratch *s, u16 flags)
{
	u32 kind = s->record.kind;

	if (bpf_ringbuf_output(&ring, s, finish(s, flags), BPF_RB_NO_WAKEUP))
		count_loss(kind);
	wake(0);
}

#include "path.h"

#endif
