// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Makes a kernel refuse the programs that take BPF trampolines: fentry, fexit, fmod_ret and LSM. What is left are those on
 * kprobes, tracepoints, iterators and cgroups. */
#include "vmlinux_min.h"
#include "helpers.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum { BPF_PROG_LOAD = 5 };
enum { BPF_PROG_TYPE_TRACING = 26, BPF_PROG_TYPE_LSM = 29 };
enum { BPF_TRACE_FENTRY = 24, BPF_TRACE_FEXIT = 25, BPF_MODIFY_RETURN = 26 };
enum { EINVAL = 22 };

/* The beginning of what union bpf_attr is for BPF_PROG_LOAD; it belongs to the interface and never changes. */
struct prog_load {
	u32 type;
	u32 unused[16];
	u32 attach_type;
};

SEC("lsm/bpf")
int refuse(u64 *ctx)
{
	struct prog_load load = {};
	if ((int)ctx[0] != BPF_PROG_LOAD)
		return 0;
	if (bpf_probe_read_kernel(&load, sizeof(load), (void *)ctx[1]))
		return 0;
	switch (load.type) {
	case BPF_PROG_TYPE_LSM:
		return -EINVAL;
	case BPF_PROG_TYPE_TRACING:
		if (load.attach_type >= BPF_TRACE_FENTRY && load.attach_type <= BPF_MODIFY_RETURN)
			return -EINVAL;
	}
	return 0;
}
