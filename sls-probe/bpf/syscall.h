/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Tracepoints of single system calls, and the descriptors that are passed to them. */
#ifndef SLS_SYSCALL_H
#define SLS_SYSCALL_H

/* As events/syscalls/.../format in tracefs says: a header of eight bytes, the number, then these. */
#define syscall_number(ctx) ((u64 *)(ctx))[1]
#define syscall_argument(ctx, number) ((u64 *)(ctx))[2 + (number)]
#define syscall_result(ctx) ((s64 *)(ctx))[2]

/* The file behind a descriptor of the process that runs; NULL if there is none. Another thread can change the descriptor
 * between this and what the kernel makes of it. */
INLINE void *file_of(u32 fd)
{
	void *files = read(struct task_struct, (void *)bpf_get_current_task(), files);
	void *table = read(struct files_struct, files, fdt);
	void *file = NULL;

	if (fd >= read(struct fdtable, table, max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), (void *)read(struct fdtable, table, fd) + fd * sizeof(file));
	return file;
}

#endif
