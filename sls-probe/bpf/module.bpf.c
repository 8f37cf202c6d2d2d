// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Code that is loaded into the kernel: modules, BPF programs, another kernel. */
#include "common.h"
#include "regs.h"
#include "self.h"
#include "syscall.h"

/* src/record/module.rs has the same numbers. */
enum operation {
	MODULE_LOAD = 0,
	BPF_LOAD = 1,
	KEXEC = 2,
	/* What kexec_load loaded is dropped. No record says so. */
	KEXEC_UNLOAD = 3,
};

struct module_detail {
	u32 operation;
	u32 from_file; /* else from memory */
};

enum { BPF_PROG_LOAD = 5, KEXEC_FILE_UNLOAD = 1 }; /* include/uapi/linux: bpf.h, kexec.h */

/* Programs on tracepoints of system calls do not interrupt each other, and have one slot together. */
enum slot {
	SLOT_SYSCALL = 0,
	SLOT_READ_FILE = 1,
	SLOT_LOAD_DATA = 2,
	SLOT_MODULE_LOAD = 3,
	SLOT_PROGRAM = 4,
	SLOTS = 5,
};

SCRATCHES(module_scratch, SLOTS);
WALK(walk_module, module_scratch)

/* What a thread is about to load: the beginning of a scratch. */
struct pending {
	struct record record;
	struct module_detail detail;
	u8 path[PATH_BYTES + NAME_BYTES];
};

/* By thread. What is never taken out, because the load failed, makes room by itself. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, 64);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, struct pending);
} pending SEC(".maps");

/* Threads that are in bpf(BPF_PROG_LOAD). */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 1024);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, u32);
} loading SEC(".maps");

INLINE void remember(u32 slot, u32 operation, void *file)
{
	struct scratch *s = bpf_map_lookup_elem(&module_scratch, &slot);
	u64 thread = bpf_get_current_pid_tgid();
	struct module_detail *detail;

	if (!s)
		return;
	detail = (void *)s->tail;
	detail->operation = operation;
	detail->from_file = file != NULL;
	s->pos = sizeof(*detail);
	s->record.flags = 0;
	if (file)
		s->record.flags = add_raw_path(s, read(struct file, file, f_path.dentry), read(struct file, file, f_path.mnt),
					       FLAG_PATH_CUT, walk_module, slot);
	s->record.path_len = s->pos - sizeof(*detail);
	bpf_map_update_elem(&pending, &thread, s, 0);
}

/* For system calls with a descriptor. */
INLINE void remember_descriptor(u32 operation, u32 fd)
{
	void *file = file_of(fd);

	/* The call will fail, unless the descriptor comes in this very moment. */
	if (file)
		remember(SLOT_SYSCALL, operation, file);
}

INLINE struct scratch *begin(u32 slot, u32 operation)
{
	struct scratch *s = bpf_map_lookup_elem(&module_scratch, &slot);
	struct module_detail *detail;

	if (!s)
		return NULL;
	fill_current(&s->record, RECORD_MODULE);
	s->record.detail_len = sizeof(*detail);
	detail = (void *)s->tail;
	detail->operation = operation;
	detail->from_file = 0;
	s->pos = sizeof(*detail);
	return s;
}

/* The path that was remembered. */
INLINE u16 add_pending(struct scratch *s)
{
	struct module_detail *detail = (void *)s->tail;
	u64 thread = bpf_get_current_pid_tgid();
	struct pending *from = bpf_map_lookup_elem(&pending, &thread);
	u32 len;
	u16 flags;

	if (!from) {
		detail->from_file = 1;
		return FLAG_PATH_UNKNOWN;
	}
	detail->from_file = from->detail.from_file;
	flags = from->record.flags;
	len = from->record.path_len;
	opaque(len);
	if (len > sizeof(from->path))
		len = sizeof(from->path);
	bpf_probe_read_kernel(s->tail + sizeof(*detail), len, from->path);
	s->record.path_len = len;
	s->pos = sizeof(*detail) + len;
	bpf_map_delete_elem(&pending, &thread);
	return flags;
}

INLINE u16 add_module_name(struct scratch *s, const void *name)
{
	u32 pos = s->pos & POS_MASK;
	long len = bpf_probe_read_kernel_str(s->tail + pos, NAME_BYTES, name);

	if (len <= 0)
		return FLAG_NAME_UNKNOWN;
	s->record.name_len = len - 1;
	s->pos = pos + len - 1;
	return 0;
}

/* The kernel reads a file, or takes memory from a process, to do something with it. */
INLINE void on_read_file(void *file, u32 id)
{
	if (id == enum_value(enum kernel_read_file_id, READING_MODULE))
		remember(SLOT_READ_FILE, MODULE_LOAD, file);
	else if (enum_exists(enum kernel_read_file_id, READING_MODULE_COMPRESSED) &&
		 id == enum_value(enum kernel_read_file_id, READING_MODULE_COMPRESSED))
		remember(SLOT_READ_FILE, MODULE_LOAD, file);
}

INLINE void on_load_data(u32 id)
{
	if (id == enum_value(enum kernel_load_data_id, LOADING_MODULE))
		remember(SLOT_LOAD_DATA, MODULE_LOAD, NULL);
}

/* A program got its number: it is verified, and there. Its functions are listed as well, and have none. */
INLINE void on_program(void *program)
{
	void *aux = read(struct bpf_prog, program, aux);
	struct scratch *s;

	if (read(struct bpf_prog_aux, aux, id) == 0 || is_self())
		return;
	s = begin(SLOT_PROGRAM, BPF_LOAD);
	if (s)
		emit(s, RECORD_MODULE, add_module_name(s, aux + field_offset(struct bpf_prog_aux, name)));
}

SEC("fentry/security_kernel_read_file")
int fentry_read_file(u64 *ctx)
{
	on_read_file((void *)ctx[0], ctx[1]);
	return 0;
}

SEC("kprobe/security_kernel_read_file")
int kprobe_read_file(void *ctx)
{
	on_read_file((void *)argument(ctx, 0), argument(ctx, 1));
	return 0;
}

SEC("fentry/security_kernel_load_data")
int fentry_load_data(u64 *ctx)
{
	on_load_data(ctx[0]);
	return 0;
}

SEC("kprobe/security_kernel_load_data")
int kprobe_load_data(void *ctx)
{
	on_load_data(argument(ctx, 0));
	return 0;
}

SEC("fentry/bpf_prog_kallsyms_add")
int fentry_program(u64 *ctx)
{
	on_program((void *)ctx[0]);
	return 0;
}

SEC("kprobe/bpf_prog_kallsyms_add")
int kprobe_program(void *ctx)
{
	on_program((void *)argument(ctx, 0));
	return 0;
}

/* The module is in its place, and its code about to run. */
SEC("tp_btf/module_load")
int on_module_load(u64 *ctx)
{
	struct module *module = (void *)ctx[0];
	struct scratch *s = begin(SLOT_MODULE_LOAD, MODULE_LOAD);
	u16 flags;

	if (!s)
		return 0;
	flags = add_pending(s);
	flags |= add_module_name(s, module->name);
	emit(s, RECORD_MODULE, flags);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_finit_module")
int enter_finit_module(void *ctx)
{
	remember_descriptor(MODULE_LOAD, syscall_argument(ctx, 0));
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_init_module")
int enter_init_module(void *ctx __attribute__((unused)))
{
	remember(SLOT_SYSCALL, MODULE_LOAD, NULL);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_bpf")
int enter_bpf(void *ctx)
{
	u64 thread = bpf_get_current_pid_tgid();
	u32 one = 1;

	if ((u32)syscall_argument(ctx, 0) != BPF_PROG_LOAD || is_self())
		return 0;
	if (bpf_map_update_elem(&loading, &thread, &one, 0))
		count_loss(RECORD_MODULE, LOST_UNTRACKED);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_bpf")
int exit_bpf(void *ctx)
{
	u64 thread = bpf_get_current_pid_tgid();
	s64 fd = syscall_result(ctx);
	struct scratch *s;
	void *program, *aux;

	if (!bpf_map_lookup_elem(&loading, &thread))
		return 0;
	bpf_map_delete_elem(&loading, &thread);
	if (fd < 0)
		return 0;
	s = begin(SLOT_SYSCALL, BPF_LOAD);
	if (!s)
		return 0;
	program = read(struct file, file_of(fd), private_data);
	aux = read(struct bpf_prog, program, aux);
	emit(s, RECORD_MODULE, add_module_name(s, aux + field_offset(struct bpf_prog_aux, name)));
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_kexec_load")
int enter_kexec_load(void *ctx)
{
	/* Without segments, what was loaded goes. */
	remember(SLOT_SYSCALL, syscall_argument(ctx, 1) ? KEXEC : KEXEC_UNLOAD, NULL);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_kexec_file_load")
int enter_kexec_file_load(void *ctx)
{
	if (syscall_argument(ctx, 4) & KEXEC_FILE_UNLOAD)
		remember(SLOT_SYSCALL, KEXEC_UNLOAD, NULL);
	else
		remember_descriptor(KEXEC, syscall_argument(ctx, 0));
	return 0;
}

INLINE void on_kexec(void *ctx)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct pending *from;
	struct scratch *s;

	if (syscall_result(ctx) != 0)
		return;
	from = bpf_map_lookup_elem(&pending, &thread);
	/* Forgotten: whether it was loaded or unloaded is not known. */
	if (!from)
		count_loss(RECORD_MODULE, LOST_UNTRACKED);
	if (!from || from->detail.operation != KEXEC)
		return;
	s = begin(SLOT_SYSCALL, KEXEC);
	if (s)
		emit(s, RECORD_MODULE, add_pending(s));
}

SEC("tracepoint/syscalls/sys_exit_kexec_load")
int exit_kexec_load(void *ctx)
{
	on_kexec(ctx);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_kexec_file_load")
int exit_kexec_file_load(void *ctx)
{
	on_kexec(ctx);
	return 0;
}
