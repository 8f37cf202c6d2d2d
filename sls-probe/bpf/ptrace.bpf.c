// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Processes that reach into others: ptrace and process_vm_writev. Writing to /proc/PID/mem is a file's matter. */
#include "common.h"
#include "syscall.h"
#include "target.h"

/* include/uapi/linux/ptrace.h, arch/x86/include/uapi/asm/ptrace-abi.h. Who asks to be traced (PTRACE_TRACEME) reaches into
 * nobody; what the tracer then does is seen. */
enum ptrace_request {
	PTRACE_POKETEXT = 4,
	PTRACE_POKEDATA = 5,
	PTRACE_POKEUSR = 6,
	PTRACE_SETREGS = 13,
	PTRACE_SETFPREGS = 15,
	PTRACE_ATTACH = 16,
	PTRACE_SETREGSET = 0x4205,
	PTRACE_SEIZE = 0x4206,
};

#define PT_SEIZED 0x00010000 /* include/linux/ptrace.h */

/* A debugger writes a lot: it is told once in this time of each pair of processes and way of writing. */
#define WRITE_INTERVAL_NS 10000000000ull

/* Pairs that are remembered; those beyond are told again. */
#define WRITES 1024

enum { ACCESSES = 4, NO_ACCESS = 0xff };

enum slot {
	SLOT_SYSCALL = 0,
	SLOT_ATTACH = 1,
	SLOT_REQUEST = 2,
	SLOTS = 3,
};

SCRATCHES(ptrace_scratch, SLOTS);
WALK(walk_target, ptrace_scratch)

/* Which are wanted, by `enum ptrace_access`. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, ACCESSES);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} wanted_access SEC(".maps");

struct call {
	u32 access;
	u32 number; /* of the target, as the caller says */
};

/* What threads are doing. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, 4096);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, struct call);
} calls SEC(".maps");

struct written {
	u64 target_start;
	u32 target_pid;
	u32 pid;
	u64 access;
};

/* When it was told. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, WRITES);
	MAP_TYPE(key, struct written);
	MAP_TYPE(value, u64);
} writes SEC(".maps");

INLINE u32 access_of(u64 request)
{
	switch (request) {
	case PTRACE_ATTACH:
		return ACCESS_ATTACH;
	case PTRACE_SEIZE:
		return ACCESS_SEIZE;
	case PTRACE_POKETEXT:
	case PTRACE_POKEDATA:
	case PTRACE_POKEUSR:
	case PTRACE_SETREGS:
	case PTRACE_SETFPREGS:
	case PTRACE_SETREGSET:
		return ACCESS_POKE;
	default:
		return NO_ACCESS;
	}
}

INLINE bool is_wanted(u32 access)
{
	u32 *wanted = bpf_map_lookup_elem(&wanted_access, &access);

	return wanted && *wanted;
}

/* Whether it was told of this pair not long ago. */
INLINE bool is_repeated(void *target, u32 access)
{
	struct written key = {};
	u64 now = bpf_ktime_get_boot_ns();
	u64 *told;

	key.target_start = read(struct task_struct, read(struct task_struct, target, group_leader), start_boottime);
	key.target_pid = read(struct task_struct, target, tgid);
	key.pid = bpf_get_current_pid_tgid() >> 32;
	key.access = access;
	told = bpf_map_lookup_elem(&writes, &key);
	if (told && now - *told < WRITE_INTERVAL_NS)
		return 1;
	bpf_map_update_elem(&writes, &key, &now, 0);
	return 0;
}

INLINE void tell(void *target, u32 access, u32 slot)
{
	struct scratch *s;

	/* The process itself: process_vm_writev can do that. */
	if (target && read(struct task_struct, target, tgid) == (int)(bpf_get_current_pid_tgid() >> 32))
		return;
	if (target && (access == ACCESS_POKE || access == ACCESS_VM_WRITE) && is_repeated(target, access))
		return;
	s = bpf_map_lookup_elem(&ptrace_scratch, &slot);
	if (!s)
		return;
	fill_current(&s->record, RECORD_PTRACE);
	emit(s, RECORD_PTRACE, add_target(s, target, access, walk_target, slot));
}

INLINE void remember(u32 access, u32 number)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call call = { .access = access, .number = number };

	if (is_wanted(access))
		bpf_map_update_elem(&calls, &thread, &call, 0);
}

INLINE void finish_call(bool done)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call *call = bpf_map_lookup_elem(&calls, &thread);
	u32 access, number;

	if (!call)
		return;
	access = call->access;
	number = call->number;
	bpf_map_delete_elem(&calls, &thread);
	if (done)
		tell(task_of_number(number), access, SLOT_SYSCALL);
}

SEC("tracepoint/syscalls/sys_enter_ptrace")
int enter_ptrace(void *ctx)
{
	u32 access = access_of(syscall_argument(ctx, 0));

	if (access != NO_ACCESS)
		remember(access, syscall_argument(ctx, 1));
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_ptrace")
int exit_ptrace(void *ctx)
{
	finish_call(syscall_result(ctx) >= 0);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_process_vm_writev")
int enter_vm_write(void *ctx)
{
	remember(ACCESS_VM_WRITE, syscall_argument(ctx, 0));
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_process_vm_writev")
int exit_vm_write(void *ctx)
{
	/* Without bytes to write, nobody is looked for. */
	finish_call(syscall_result(ctx) > 0);
	return 0;
}

/* A tracer got its tracee: so the process connector is told. Not called when a tracee forks, nor for who asks to be traced. */
SEC("fentry/proc_ptrace_connector")
int fentry_attach(u64 *ctx)
{
	void *target = (void *)ctx[0];
	u32 access;

	if ((u32)ctx[1] != PTRACE_ATTACH)
		return 0;
	access = read(struct task_struct, target, ptrace) & PT_SEIZED ? ACCESS_SEIZE : ACCESS_ATTACH;
	if (is_wanted(access))
		tell(target, access, SLOT_ATTACH);
	return 0;
}

INLINE void on_request(u64 *ctx)
{
	if ((s64)ctx[4] >= 0 && access_of(ctx[1]) == ACCESS_POKE)
		tell((void *)ctx[0], ACCESS_POKE, SLOT_REQUEST);
}

SEC("fexit/arch_ptrace")
int fexit_request(u64 *ctx)
{
	on_request(ctx);
	return 0;
}

/* Of a 32-bit tracer. */
SEC("fexit/compat_arch_ptrace")
int fexit_compat_request(u64 *ctx)
{
	on_request(ctx);
	return 0;
}
