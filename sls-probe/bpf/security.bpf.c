// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Protections that are switched off, and functions that only the kernel itself should call. */
#include "common.h"
#include "regs.h"

/* In the order of the values of `securityChange`. */
enum change {
	SELINUX_DISABLED = 0,
	SELINUX_PERMISSIVE = 1,
	SELINUX_POLICY_LOADED = 2,
	KERNEL_PAYLOAD = 6,
};

struct security_detail {
	u32 change;
	u32 zero;
};

struct security_record {
	struct record record;
	struct security_detail detail;
};

INLINE void send(u32 change)
{
	struct security_record *r = reserve(struct security_record, RECORD_SECURITY);

	if (!r)
		return;
	r->detail.change = change;
	r->detail.zero = 0;
	submit(r);
}

/* Code in memory of a process called a function of the kernel: no way of the kernel's own leads there. */
INLINE void on_kernel_function(void *regs)
{
	u64 address = return_address(regs);

	/* 0: it could not be read. */
	if (address != 0 && is_user_address(address))
		send(KERNEL_PAYLOAD);
}

SEC("fentry/selnl_notify_setenforce")
int fentry_setenforce(u64 *ctx)
{
	if ((s32)ctx[0] == 0)
		send(SELINUX_PERMISSIVE);
	return 0;
}

SEC("kprobe/selnl_notify_setenforce")
int kprobe_setenforce(void *ctx)
{
	if ((s32)argument(ctx, 0) == 0)
		send(SELINUX_PERMISSIVE);
	return 0;
}

/* Another policy takes effect. Not for a switch of a boolean, which is a part of the policy. */
SEC("fentry/selinux_policy_commit")
int fentry_policy_commit(u64 *ctx __attribute__((unused)))
{
	send(SELINUX_POLICY_LOADED);
	return 0;
}

SEC("kprobe/selinux_policy_commit")
int kprobe_policy_commit(void *ctx __attribute__((unused)))
{
	send(SELINUX_POLICY_LOADED);
	return 0;
}

/* int selinux_disable(struct selinux_state *): before Linux 6.4, if at all. */
SEC("fexit/selinux_disable")
int fexit_disable(u64 *ctx)
{
	if ((s32)ctx[1] == 0)
		send(SELINUX_DISABLED);
	return 0;
}

SEC("kretprobe/selinux_disable")
int kretprobe_disable(void *ctx)
{
	if ((s32)returned(ctx) == 0)
		send(SELINUX_DISABLED);
	return 0;
}

SEC("kprobe/commit_creds")
int kprobe_commit_creds(void *ctx)
{
	on_kernel_function(ctx);
	return 0;
}

SEC("kprobe/prepare_kernel_cred")
int kprobe_prepare_kernel_cred(void *ctx)
{
	on_kernel_function(ctx);
	return 0;
}

SEC("kprobe/call_usermodehelper_exec")
int kprobe_call_usermodehelper_exec(void *ctx)
{
	on_kernel_function(ctx);
	return 0;
}
