/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What all objects share: configuration, the rings, who gets room in them, the wake-up, and what every record has. User space
 * creates the maps here once and gives them to each object, so all objects write into the same rings. */
#ifndef SLS_COMMON_H
#define SLS_COMMON_H

#include "vmlinux_min.h"
#include "helpers.h"
#include "record.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct config config SEC(".rodata.config") = {
	.lanes = { { .bytes = 8 << 20 }, { .bytes = 8 << 20 } },
};

/* One a lane. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_RINGBUF);
	MAP_UINT(max_entries, 8 << 20);
} process_ring SEC(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_RINGBUF);
	MAP_UINT(max_entries, 8 << 20);
} activity_ring SEC(".maps");

/* Records lost since the start. */
struct losses {
	u64 counts[2][RECORD_KINDS][LOST_CAUSES]; /* operations that were refused are second */
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct losses);
} lost_records SEC(".maps");

/* Set by the reader before it blocks, cleared by whoever wakes it. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} dozing SEC(".maps");

/* The kinds of records that are left out, a bit each. Set by the reader. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} shed_kinds SEC(".maps");

/* What a cgroup has used of each lane: a bucket that leaks. */
struct spent {
	struct {
		u64 at; /* when it leaked last */
		s64 bytes;
	} lanes[LANES];
};

/* Cgroups that are kept account of; src/builder.rs has the same number. With more, those that were quiet longest begin anew. */
#define BUDGETS 4096

struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, BUDGETS);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, struct spent);
} budgets SEC(".maps");

/* Some time between two looks, so that what leaks is not rounded away. */
#define LEAK_NS (1 << 20)

INLINE u32 lane_of(u32 kind)
{
	return ACTIVITY_KINDS >> kind & 1 ? LANE_ACTIVITY : LANE_PROCESS;
}

INLINE void *ring_of(u32 kind)
{
	return lane_of(kind) == LANE_ACTIVITY ? (void *)&activity_ring : (void *)&process_ring;
}

/* Counters by cause. `refused` and `kind` are constants. */
INLINE u64 *lost_of(bool refused, u32 kind)
{
	u32 zero = 0;
	struct losses *losses = bpf_map_lookup_elem(&lost_records, &zero);

	return losses ? losses->counts[refused][kind] : NULL;
}

INLINE u64 lost_so_far(bool refused, u32 kind)
{
	volatile u64 *lost = lost_of(refused, kind);
	u64 sum = 0;

	if (!lost)
		return 0;
#pragma clang loop unroll(full)
	for (u32 cause = 0; cause < LOST_CAUSES; cause++)
		sum += lost[cause];
	return sum;
}

INLINE void count(bool refused, u32 kind, u32 cause)
{
	u64 *lost = lost_of(refused, kind);

	if (lost)
		__sync_fetch_and_add(lost + cause, 1);
}

INLINE void count_loss(u32 kind, u32 cause)
{
	count(0, kind, cause);
}

/* Wakes the reader if it sleeps. Called after the record was committed: tested before, the reader could look at an
 * empty ring between the test and the commit, and then sleep on a full one. If it is not worth it before something has
 * gathered in the process's lane, `enough` says how much. */
INLINE void wake(u64 enough)
{
	u32 zero = 0;
	u32 *dozes = bpf_map_lookup_elem(&dozing, &zero);
	void *bell;

	if (!dozes || !*(volatile u32 *)dozes)
		return;
	if (enough && bpf_ringbuf_query(&process_ring, BPF_RB_AVAIL_DATA) < enough)
		return;
	/* The record is already in its ring, so an empty one rings the bell. The reader never sees it, and counts on there
	 * being none in the other ring. */
	bell = bpf_ringbuf_reserve(&activity_ring, 8, 0);
	/* The ring is full: the next one has to try again. */
	if (!bell)
		return;
	*(volatile u32 *)dozes = 0;
	bpf_ringbuf_discard(bell, BPF_RB_FORCE_WAKEUP);
}

/* What gathers of that which nobody acts on at once. */
INLINE u64 wake_bytes(void)
{
	return config.lanes[LANE_PROCESS].bytes / 8;
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

/* How far the process's lane is filled for those who have to come after what is there. */
INLINE u64 process_position(u32 kind)
{
	return lane_of(kind) == LANE_ACTIVITY ? bpf_ringbuf_query(&process_ring, BPF_RB_PROD_POS) : 0;
}

/* What every record has. Each member is written: the scratch still holds the last record. */
INLINE void fill(struct record *r, struct task_struct *task, u8 kind)
{
	struct task_struct *leader = task->group_leader;
	struct task_struct *parent = task->real_parent;
	struct pid *pid = leader->thread_pid;
	const struct cred *cred = task->real_cred;

	r->len = sizeof(*r);
	r->kind = kind;
	r->version = RECORD_VERSION;
	r->flags = task->flags & PF_KTHREAD ? FLAG_KERNEL_THREAD : 0;
	r->time = bpf_ktime_get_boot_ns();
	r->lost = lost_so_far(0, kind);
	r->start = leader->start_boottime;
	r->pid = task->tgid;
	r->parent_pid = 0;
	r->parent_start = 0;
	if (parent) {
		r->parent_pid = parent->tgid;
		r->parent_start = parent->group_leader->start_boottime;
	}
	r->creator_pid = 0;
	r->creator_start = process_position(kind);
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

	r->len = sizeof(*r);
	r->kind = kind;
	r->version = RECORD_VERSION;
	r->flags = read(struct task_struct, task, flags) & PF_KTHREAD ? FLAG_KERNEL_THREAD : 0;
	r->time = bpf_ktime_get_boot_ns();
	r->lost = lost_so_far(0, kind);
	r->start = read(struct task_struct, leader, start_boottime);
	r->pid = read(struct task_struct, task, tgid);
	r->parent_pid = read(struct task_struct, parent, tgid);
	r->parent_start = read(struct task_struct, read(struct task_struct, parent, group_leader), start_boottime);
	r->creator_pid = 0;
	r->creator_start = process_position(kind);
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

/* Which budget a process lives on: where there are two hierarchies, that of both its places. */
INLINE u64 budget(u64 cgroup, u32 legacy)
{
	return cgroup ^ (u64)legacy << 32;
}

INLINE u64 current_budget(void)
{
	void *task = (void *)bpf_get_current_task();
	void *cgroup = read(struct css_set, read(struct task_struct, task, cgroups), dfl_cgrp);

	return budget(read(struct kernfs_node, read(struct cgroup, cgroup, kn), id), legacy_cgroup_of(task));
}

INLINE u64 budget_of(struct record *r)
{
	return budget(r->cgroup_id, r->legacy_cgroup);
}

/* Takes `bytes` from what a cgroup may use of a lane that fills. Yes if that was used up. Processors that do this at the same
 * moment can take a little more together. A cgroup of which no account can be kept is not over its budget. */
__attribute__((noinline)) int over_budget(u32 lane, u64 cgroup, u32 bytes)
{
	u64 burst = lane ? config.lanes[1].burst : config.lanes[0].burst;
	u64 rate = lane ? config.lanes[1].rate : config.lanes[0].rate;
	u64 now = bpf_ktime_get_boot_ns(), elapsed;
	struct spent *spent;

	if (lane >= LANES || !burst)
		return 0;
	spent = bpf_map_lookup_elem(&budgets, &cgroup);
	if (!spent) {
		struct spent nothing = {};

		bpf_map_update_elem(&budgets, &cgroup, &nothing, BPF_NOEXIST);
		spent = bpf_map_lookup_elem(&budgets, &cgroup);
		if (!spent)
			return 0;
	}
	elapsed = now - spent->lanes[lane].at;
	if ((s64)elapsed >= LEAK_NS) {
		s64 left = spent->lanes[lane].bytes;

		/* So that what follows does not overflow. Everything has leaked long before. */
		if (elapsed > 1ull << 40)
			elapsed = 1ull << 40;
		left -= (elapsed >> 10) * rate >> 20;
		spent->lanes[lane].at = now;
		spent->lanes[lane].bytes = left > 0 ? left : 0;
	}
	if (spent->lanes[lane].bytes + bytes > (s64)burst)
		return 1;
	__sync_fetch_and_add(&spent->lanes[lane].bytes, bytes);
	return 0;
}

INLINE bool is_shed(u32 kind)
{
	u32 zero = 0;
	u32 *kinds = bpf_map_lookup_elem(&shed_kinds, &zero);

	return kinds && *(volatile u32 *)kinds >> kind & 1;
}

/* How full its lane may be for a record. The last quarter of the process's lane is kept from what can be made up for, and the
 * last sixteenth of each for what was decided in the kernel, and for bells. */
INLINE u64 limit_of(u32 kind)
{
	u64 bytes = config.lanes[lane_of(kind)].bytes;

	/* A busy function must not crowd out everything else. */
	if (kind == RECORD_PROBE)
		return bytes / 2;
	if (kind == RECORD_FORK || kind == RECORD_EXIT)
		return bytes - bytes / 4;
	return bytes - bytes / 16;
}

INLINE u32 cause_at_limit(u32 kind)
{
	return kind == RECORD_PROBE ? LOST_OVER_BUDGET : LOST_FULL;
}

/* Whether a record may be sent; if not, that is counted. Budgets count only in the second half of a lane: while there is room,
 * nothing is withheld. `kind` is a constant, and `cgroup` is not looked for unless it is needed. */
#define admits(kind, size, cgroup)                                                                  \
	({                                                                                          \
		bool admitted_ = !is_shed(kind);                                                    \
		if (!admitted_) {                                                                   \
			count_loss(kind, LOST_SHED);                                                \
		} else {                                                                            \
			u64 used_ = bpf_ringbuf_query(ring_of(kind), BPF_RB_AVAIL_DATA) + (size);   \
			if (used_ > limit_of(kind)) {                                               \
				count_loss(kind, cause_at_limit(kind));                                        \
				admitted_ = 0;                                                      \
			} else if (kind != RECORD_PROBE && used_ > config.lanes[lane_of(kind)].bytes / 2 && \
				   over_budget(lane_of(kind), cgroup, size)) {                      \
				count_loss(kind, LOST_OVER_BUDGET);                                 \
				admitted_ = 0;                                                      \
			}                                                                           \
		}                                                                                   \
		admitted_;                                                                          \
	})

/* Room for a record of the process that runs, straight in the ring. NULL if there is none; that is counted. */
INLINE void *reserve_bytes(u32 kind, u32 bytes)
{
	void *r = NULL;

	if (admits(kind, bytes, current_budget())) {
		r = bpf_ringbuf_reserve(ring_of(kind), bytes, 0);
		if (!r)
			count_loss(kind, LOST_FULL);
	}
	if (!r)
		wake(0);
	return r;
}

/* The same of a record of `type`, which has a header and a detail and no strings, with its header: to be sent by submit(). */
#define reserve(type, kind)                                       \
	({                                                        \
		type *r_ = reserve_bytes(kind, sizeof(type));     \
		if (r_) {                                         \
			fill_current(&r_->record, kind);          \
			r_->record.len = sizeof(type);            \
			r_->record.detail_len = sizeof(r_->detail); \
		}                                                 \
		r_;                                               \
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
INLINE void emit(struct scratch *s, u32 kind, u16 flags)
{
	if (admits(kind, sizeof(s->record) + s->pos, budget_of(&s->record)) &&
	    bpf_ringbuf_output(ring_of(kind), s, finish(s, flags), BPF_RB_NO_WAKEUP))
		count_loss(kind, LOST_FULL);
	wake(0);
}

/* Sends what was built in a scratch and what the kernel tier has decided about: by the process's lane whatever its kind is, and
 * at once. */
INLINE void emit_decided(struct scratch *s, bool refused, u32 kind, u16 flags)
{
	u32 zero = 0;
	u32 *dozes = bpf_map_lookup_elem(&dozing, &zero);

	if (bpf_ringbuf_output(&process_ring, s, finish(s, flags), BPF_RB_FORCE_WAKEUP))
		count(refused, kind, LOST_FULL);
	else if (dozes)
		*(volatile u32 *)dozes = 0;
}

#include "path.h"

#endif
