// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* The sensor protects itself: what others would do to its process and to its BPF objects is refused where the kernel asks its
 * security modules. Nothing of it goes through the ring, which others can fill. */
#include "common.h"
#include "self.h"

#define EPERM 1
/* include/linux/ptrace.h */
#define PTRACE_MODE_ATTACH 0x2
/* include/uapi/linux/bpf.h */
#define BPF_LINK_GET_FD_BY_ID 30

/* src/protection.rs has the same numbers. */
enum operation {
	TAMPER_SIGNAL = 0,
	TAMPER_PTRACE = 1,
	TAMPER_MAP = 2,
	TAMPER_PROGRAM = 3,
	TAMPER_LINK = 4,
	TAMPER_LIMIT = 5,
	TAMPER_FILE_SIGNAL = 6,
	TAMPERS = 7,
};

struct protect_config {
	u64 signals; /* those that anybody may send who could, a bit for each: 1 << (signal - 1) */
};

const volatile struct protect_config protect_config SEC(".rodata.protect") = {};

/* An object of the sensor's. The first three kinds of `enum operation` that are objects. */
struct object {
	u32 operation;
	u32 id;
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 4096);
	MAP_TYPE(key, struct object);
	MAP_TYPE(value, u32);
} protect_objects SEC(".maps");

struct program {
	u64 inode;
	u32 device; /* kernel encoding */
	u32 zero;
};

/* Programs whose processes may do everything. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 64);
	MAP_TYPE(key, struct program);
	MAP_TYPE(value, u32);
} protect_programs SEC(".maps");

/* How often each operation was refused. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, TAMPERS);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u64);
} protect_counts SEC(".maps");

struct attempt {
	u64 start; /* of the process, CLOCK_BOOTTIME, ns */
	u32 operation;
	u32 argument; /* the signal, the object's id, or the resource */
	u32 pid; /* 0: not known */
	u32 uid;
	u8 comm[16];
};

_Static_assert(sizeof(struct attempt) == 40, "src/protection.rs counts on it");

/* The first ones since user space looked. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_QUEUE);
	MAP_UINT(max_entries, 64);
	MAP_TYPE(value, struct attempt);
} protect_attempts SEC(".maps");

INLINE bool is_exempt(void)
{
	void *task = (void *)bpf_get_current_task();
	struct program program = {};
	void *file, *inode;

	/* The service manager, which has to be able to stop it. */
	if (bpf_get_current_pid_tgid() >> 32 == 1 || is_self())
		return 1;
	file = read(struct mm_struct, read(struct task_struct, task, mm), exe_file);
	if (!file)
		return 0;
	inode = read(struct file, file, f_inode);
	program.inode = read(struct inode, inode, i_ino);
	program.device = read(struct super_block, read(struct inode, inode, i_sb), s_dev);
	return bpf_map_lookup_elem(&protect_programs, &program) != NULL;
}

INLINE int refused(u32 operation, u32 argument, bool by_current)
{
	struct attempt attempt = { .operation = operation, .argument = argument };
	u64 *count = bpf_map_lookup_elem(&protect_counts, &operation);
	void *task = (void *)bpf_get_current_task();

	if (count)
		__sync_fetch_and_add(count, 1);
	if (by_current) {
		void *leader = read(struct task_struct, task, group_leader);
		void *cred = (void *)read(struct task_struct, task, real_cred);

		attempt.start = read(struct task_struct, leader, start_boottime);
		attempt.pid = read(struct task_struct, task, tgid);
		attempt.uid = read(struct cred, cred, uid.val);
		bpf_get_current_comm(attempt.comm, sizeof(attempt.comm));
	}
	/* Full: the count says so. */
	bpf_map_push_elem(&protect_attempts, &attempt, 0);
	return -EPERM;
}

/* int task_kill(struct task_struct *p, struct kernel_siginfo *info, int sig, const struct cred *cred). Of signals that the
 * kernel makes, it asks only about those of a process that ends (PR_SET_PDEATHSIG, a terminal that goes), and of a USB transfer,
 * which has credentials of its own. */
SEC("lsm/task_kill")
int protect_signal(u64 *ctx)
{
	u32 signal = ctx[2];
	u64 cred = 0;

	if (!is_process_self((void *)ctx[0]))
		return 0;
	/* The verifier takes an argument for a pointer to something, and would leave a comparison with 0 out. */
	bpf_probe_read_kernel(&cred, sizeof(cred), &ctx[3]);
	if (cred || read(struct task_struct, (void *)bpf_get_current_task(), flags) & PF_EXITING)
		return 0;
	/* 0 asks whether it is there. */
	if (signal == 0 || signal > 64 || protect_config.signals >> (signal - 1) & 1 || is_exempt())
		return 0;
	return refused(TAMPER_SIGNAL, signal, 1);
}

/* int file_send_sigiotask(struct task_struct *tsk, struct fown_struct *fown, int sig). Whoever owns the file, has had it name
 * the sensor: not itself, as it asks for no such signals. Who runs meanwhile has nothing to do with it. */
SEC("lsm/file_send_sigiotask")
int protect_file_signal(u64 *ctx)
{
	if (!is_process_self((void *)ctx[0]))
		return 0;
	return refused(TAMPER_FILE_SIGNAL, ctx[2], 0);
}

/* int ptrace_access_check(struct task_struct *child, unsigned int mode): also for /proc/PID/mem, process_vm_readv and
 * process_vm_writev, and pidfd_getfd. */
SEC("lsm/ptrace_access_check")
int protect_memory(u64 *ctx)
{
	if (!((u32)ctx[1] & PTRACE_MODE_ATTACH) || !is_process_self((void *)ctx[0]) || is_exempt())
		return 0;
	return refused(TAMPER_PTRACE, 0, 1);
}

/* int task_setrlimit(struct task_struct *p, unsigned int resource, struct rlimit *new): a limit of processor time kills. */
SEC("lsm/task_setrlimit")
int protect_limits(u64 *ctx)
{
	if (!is_process_self((void *)ctx[0]) || is_exempt())
		return 0;
	return refused(TAMPER_LIMIT, ctx[1], 1);
}

INLINE int on_object(u32 operation, u32 id)
{
	struct object object = { .operation = operation, .id = id };

	if (!bpf_map_lookup_elem(&protect_objects, &object) || is_exempt())
		return 0;
	return refused(operation, id, 1);
}

/* int bpf_map(struct bpf_map *map, fmode_t fmode). Reading changes nothing. */
SEC("lsm/bpf_map")
int protect_map(u64 *ctx)
{
	if (!((u32)ctx[1] & FMODE_WRITE))
		return 0;
	return on_object(TAMPER_MAP, read(struct bpf_map, (void *)ctx[0], id));
}

/* int bpf_prog(struct bpf_prog *prog) */
SEC("lsm/bpf_prog")
int protect_program(u64 *ctx)
{
	return on_object(TAMPER_PROGRAM, read(struct bpf_prog_aux, read(struct bpf_prog, (void *)ctx[0], aux), id));
}

/* int bpf(int cmd, union bpf_attr *attr, unsigned int size): for links there is no other question. */
SEC("lsm/bpf")
int protect_link(u64 *ctx)
{
	u32 id = 0;

	if ((u32)ctx[0] != BPF_LINK_GET_FD_BY_ID)
		return 0;
	bpf_probe_read_kernel(&id, sizeof(id), (void *)ctx[1]);
	return on_object(TAMPER_LINK, id);
}
