// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Does nothing. Whether the kernel takes it tells which hooks it has. */
#include "vmlinux_min.h"
#include "helpers.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("fentry/security_file_open")
int detect_fentry(u64 *ctx __attribute__((unused)))
{
	return 0;
}

SEC("kprobe/security_file_open")
int detect_kprobe(void *ctx __attribute__((unused)))
{
	return 0;
}

SEC("lsm/file_open")
int detect_lsm(u64 *ctx __attribute__((unused)))
{
	return 0;
}
