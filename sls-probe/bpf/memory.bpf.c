// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Memory that becomes executable, and user space that handles its own page faults. */
#include "common.h"
#include "syscall.h"

/* src/record/memory.rs has the same numbers. */
enum region {
	REGION_HEAP = 0,
	REGION_STACK = 1,
	REGION_ANONYMOUS = 2,
	REGION_FILE = 3,
	REGION_MEMFD = 4,
	REGION_UNKNOWN = 5,
};

struct memory_detail {
	u32 region;
	u32 writable;
};

struct memory_record {
	struct record record;
	struct memory_detail detail;
};

enum {
	PROT_READ = 1,
	PROT_WRITE = 2,
	PROT_EXEC = 4,
	MAP_ANONYMOUS = 0x20,
	SHM_RDONLY = 010000,
	SHM_EXEC = 0100000,
	VM_WRITE = 2,
	VM_EXEC = 4,
	VM_GROWSDOWN = 0x100,
	READ_IMPLIES_EXEC = 0x0400000, /* of a personality */
};

/* Mappings of one call that are looked at, where a call is all there is to see. */
#define MAPPINGS 8

/* Steps in the tree of a process's mappings: a balanced tree of the most that a process can have is less deep. */
#define TREE_STEPS 48

/* The regions that are wanted, as bits. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} wanted_regions SEC(".maps");

struct call {
	u64 address;
	u64 length;
	u32 writable;
	u32 fallback; /* region, if the mapping cannot be looked at */
};

/* What threads are doing. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, 4096);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, struct call);
} calls SEC(".maps");

INLINE void tell(u32 region, u32 writable)
{
	u32 zero = 0;
	u32 *wanted = bpf_map_lookup_elem(&wanted_regions, &zero);
	struct memory_record *r;

	/* What a file says is meant to be run, unless it can be changed there. */
	if (region == REGION_FILE && !writable)
		return;
	if (!wanted || (region < REGION_UNKNOWN && !(*wanted >> region & 1)))
		return;
	r = reserve(struct memory_record, RECORD_MEMORY);
	if (!r)
		return;
	r->detail.region = region;
	r->detail.writable = writable;
	submit(r);
}

/* Files without a place in the tree are the kernel's own: memfds, and what shared anonymous memory is made of. */
INLINE u32 region_of_file(void *file)
{
	void *dentry = read(struct file, file, f_path.dentry);

	if ((void *)read(struct dentry, dentry, d_parent) != dentry ||
	    read(struct inode, (void *)read(struct file, file, f_inode), i_nlink) != 0)
		return REGION_FILE;
	return is_memfd(read(struct dentry, dentry, d_name.name)) ? REGION_MEMFD : REGION_ANONYMOUS;
}

/* Of memory that has no file. */
INLINE u32 region_at(void *mm, u64 start, u64 end, u64 flags)
{
	u64 stack = read(struct mm_struct, mm, start_stack);

	if (start < read(struct mm_struct, mm, brk) && end > read(struct mm_struct, mm, start_brk))
		return REGION_HEAP;
	if (flags & VM_GROWSDOWN || (start <= stack && end >= stack))
		return REGION_STACK;
	return REGION_ANONYMOUS;
}

INLINE u32 region_of(void *vma)
{
	void *file = read(struct vm_area_struct, vma, vm_file);

	if (file)
		return region_of_file(file);
	return region_at((void *)read(struct vm_area_struct, vma, vm_mm), read(struct vm_area_struct, vma, vm_start),
			 read(struct vm_area_struct, vma, vm_end), read(struct vm_area_struct, vma, vm_flags));
}

/* Whether the kernel makes memory executable that is asked to be `prot`. */
INLINE bool becomes_executable(u64 prot)
{
	if (prot & PROT_EXEC)
		return 1;
	return prot & PROT_READ &&
	       read(struct task_struct, (void *)bpf_get_current_task(), personality) & READ_IMPLIES_EXEC;
}

/* For each mapping of a range whose protection is about to change; no security module objects. */
SEC("fexit/security_file_mprotect")
int fexit_protect(u64 *ctx)
{
	u32 prot = ctx[2], writable = !!(prot & PROT_WRITE);
	void *vma = (void *)ctx[0];
	u64 flags;

	if (!(prot & PROT_EXEC) || (int)ctx[3] != 0)
		return 0;
	flags = read(struct vm_area_struct, vma, vm_flags);
	/* It was so before. */
	if (flags & VM_EXEC && (!writable || flags & VM_WRITE))
		return 0;
	tell(region_of(vma), writable);
	return 0;
}

SEC("fexit/vm_mmap_pgoff")
int fexit_map(u64 *ctx)
{
	u64 prot = ctx[3];
	void *file = (void *)ctx[0];

	/* Addresses end below the numbers of errors. */
	if (!becomes_executable(prot) || ctx[6] >= -4095ull)
		return 0;
	tell(file ? region_of_file(file) : REGION_ANONYMOUS, !!(prot & PROT_WRITE));
	return 0;
}

SEC("fexit/do_shmat")
int fexit_attach(u64 *ctx)
{
	u32 flags = ctx[2];

	if (flags & SHM_EXEC && (s64)ctx[5] == 0)
		tell(REGION_ANONYMOUS, !(flags & SHM_RDONLY));
	return 0;
}

INLINE void remember(u64 address, u64 length, u32 writable, u32 fallback)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call call = { .address = address, .length = length, .writable = writable, .fallback = fallback };

	bpf_map_update_elem(&calls, &thread, &call, 0);
}

INLINE void on_enter_protect(void *ctx)
{
	u64 address = syscall_argument(ctx, 0), length = syscall_argument(ctx, 1), prot = syscall_argument(ctx, 2);
	void *mm;
	u32 region;

	if (!becomes_executable(prot))
		return;
	mm = (void *)read(struct task_struct, (void *)bpf_get_current_task(), mm);
	region = region_at(mm, address, address + length, 0);
	remember(address, length, !!(prot & PROT_WRITE), region == REGION_ANONYMOUS ? REGION_UNKNOWN : region);
}

SEC("tracepoint/syscalls/sys_enter_mprotect")
int enter_mprotect(void *ctx)
{
	on_enter_protect(ctx);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_pkey_mprotect")
int enter_pkey_mprotect(void *ctx)
{
	on_enter_protect(ctx);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_mmap")
int enter_mmap(void *ctx)
{
	u64 prot = syscall_argument(ctx, 2);
	u32 region = REGION_ANONYMOUS;
	void *file;

	if (!becomes_executable(prot))
		return 0;
	if (!(syscall_argument(ctx, 3) & MAP_ANONYMOUS)) {
		file = file_of(syscall_argument(ctx, 4));
		region = file ? region_of_file(file) : REGION_UNKNOWN;
	}
	remember(0, syscall_argument(ctx, 1), !!(prot & PROT_WRITE), region);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_shmat")
int enter_shmat(void *ctx)
{
	u64 flags = syscall_argument(ctx, 2);

	if (flags & SHM_EXEC)
		remember(0, 1, !(flags & SHM_RDONLY), REGION_ANONYMOUS);
	return 0;
}

/* A mapping that was looked for. */
struct found {
	u64 end;
	u32 region;
	u32 zero;
};

/* Before Linux 6.1 mappings are in a tree. It can change under us: what comes out is a mapping or nothing. */
INLINE void find_in_tree(void *mm, u64 address, struct found *found)
{
	void *node = (void *)read(struct mm_struct, mm, mm_rb.rb_node), *vma = NULL;

#pragma clang loop unroll(disable)
	for (int i = 0; i < TREE_STEPS; i++) {
		void *at = node - field_offset(struct vm_area_struct, vm_rb);

		if (!node)
			break;
		if (address < read(struct vm_area_struct, at, vm_start)) {
			node = (void *)read(struct rb_node, node, rb_left);
		} else if (address >= read(struct vm_area_struct, at, vm_end)) {
			node = (void *)read(struct rb_node, node, rb_right);
		} else {
			vma = at;
			break;
		}
	}
	if (vma) {
		found->region = region_of(vma);
		found->end = read(struct vm_area_struct, vma, vm_end);
	}
}

static long on_vma(struct task_struct *task __attribute__((unused)), struct vm_area_struct *vma, struct found *found)
{
	found->region = region_of(vma);
	found->end = read(struct vm_area_struct, vma, vm_end);
	return 0;
}

/* Of the mappings in the range, the first that is told of; `tree` says how mappings are found. */
INLINE void on_exit_call(void *ctx, bool maps, bool tree)
{
	u64 thread = bpf_get_current_pid_tgid(), result = syscall_result(ctx);
	struct call *call = bpf_map_lookup_elem(&calls, &thread);
	struct found found;
	u64 address, end;
	u32 writable, region;
	int i;

	if (!call)
		return;
	address = maps ? result : call->address;
	end = address + call->length;
	writable = call->writable;
	region = call->fallback;
	bpf_map_delete_elem(&calls, &thread);
	if (maps ? result >= -4095ull : result != 0)
		return;
#pragma clang loop unroll(disable)
	for (i = 0; i < MAPPINGS; i++) {
		found.end = 0;
		found.region = REGION_UNKNOWN;
		found.zero = 0;
		if (tree)
			find_in_tree((void *)read(struct task_struct, (void *)bpf_get_current_task(), mm), address, &found);
		else
			bpf_find_vma(bpf_get_current_task_btf(), address, on_vma, &found, 0);
		/* The kernel is changing them just now. */
		if (found.end <= address)
			break;
		region = found.region;
		address = found.end;
		if (region != REGION_FILE || address >= end)
			break;
	}
	if (i == MAPPINGS)
		region = REGION_UNKNOWN;
	tell(region, writable);
}

#define EXIT_CALL(call, maps)                                  \
	SEC("tracepoint/syscalls/sys_exit_" #call)             \
	int exit_##call(void *ctx)                             \
	{                                                      \
		on_exit_call(ctx, maps, 0);                    \
		return 0;                                      \
	}                                                      \
	SEC("tracepoint/syscalls/sys_exit_" #call)             \
	int tree_##call(void *ctx)                             \
	{                                                      \
		on_exit_call(ctx, maps, 1);                    \
		return 0;                                      \
	}

EXIT_CALL(mprotect, 0)
EXIT_CALL(pkey_mprotect, 0)
EXIT_CALL(mmap, 1)
EXIT_CALL(shmat, 1)

INLINE void tell_userfaultfd(void)
{
	struct record *r = reserve_bytes(RECORD_USERFAULTFD, sizeof(*r));

	if (!r)
		return;
	fill_current(r, RECORD_USERFAULTFD);
	submit(r);
}

SEC("tracepoint/syscalls/sys_exit_userfaultfd")
int exit_userfaultfd(void *ctx)
{
	if (syscall_result(ctx) >= 0)
		tell_userfaultfd();
	return 0;
}

/* Whichever way it is made: by the system call, or through /dev/userfaultfd. */
SEC("fexit/security_inode_init_security_anon")
int fexit_userfaultfd(u64 *ctx)
{
	void *name = (void *)read(struct qstr, (void *)ctx[1], name);
	u64 start[2] = {};

	if ((int)ctx[3] != 0)
		return 0;
	bpf_probe_read_kernel(start, 13, name);
	if (start[0] == 0x756166726573755bull && start[1] == 0x5d6466746cull) /* "[userfaultfd]" */
		tell_userfaultfd();
	return 0;
}
