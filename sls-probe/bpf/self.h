/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Whether it is the sensor itself that runs: what it does to watch is no event, and would make more of them. */
#ifndef SLS_SELF_H
#define SLS_SELF_H

/* Set by user space before the programs are loaded. */
struct self {
	u32 pid; /* as the sensor sees it: in its own namespace */
	u32 pid_namespace;
};

const volatile struct self self SEC(".rodata.self") = {};

/* Whether a thread is one of the sensor's. */
INLINE bool is_process_self(void *task)
{
	void *leader = read(struct task_struct, task, group_leader);
	void *pid = read(struct task_struct, leader, thread_pid);
	void *upid = pid + innermost_upid(pid);

	return (u32)read(struct upid, upid, nr) == self.pid &&
	       read(struct pid_namespace, read(struct upid, upid, ns), ns.inum) == self.pid_namespace;
}

INLINE bool is_self(void)
{
	return is_process_self((void *)bpf_get_current_task());
}

#endif
