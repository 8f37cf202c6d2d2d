// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Operations that policies of the kernel tier refuse, before they happen: where the kernel asks its security modules, and for
 * connections also where it asks cgroups. */
#include "common.h"
#include "socket.h"
#include "tier.h"

#define EPERM 1
/* include/linux/ptrace.h */
#define PTRACE_MODE_ATTACH 0x2
/* include/uapi/linux/bpf.h */
#define BPF_PROG_LOAD 5

/* A program can be preempted by itself: then it decides once more. */
#define ATTEMPTS 3

enum slot {
	SLOT_EXEC = 0,
	SLOT_OPEN = 1,
	SLOT_CREATE = 2,
	SLOT_UNLINK = 3,
	SLOT_RENAME = 4,
	SLOT_LINK = 5,
	SLOT_TRUNCATE = 6,
	SLOT_CHMOD = 7,
	SLOT_CONNECT = 8,
	SLOT_PTRACE = 9,
	SLOT_MODULE = 10,
	SLOTS = 11,
};

/* Bits, in the order of src/record/file.rs. */
enum operation {
	FILE_CREATE = 1 << 0,
	FILE_OPEN_WRITE = 1 << 1,
	FILE_RENAME = 1 << 4,
	FILE_LINK = 1 << 5,
	FILE_UNLINK = 1 << 7,
	FILE_TRUNCATE = 1 << 8,
	FILE_CHMOD = 1 << 9,
};

/* The same of src/record/module.rs. */
enum { LOADED_MODULE = 1 << 0, LOADED_BPF = 1 << 1, LOADED_KEXEC = 1 << 2 };

/* The same of src/record/network.rs. */
enum { OVER_TCP = 1 << 0, OVER_UDP = 1 << 1, OVER_UNIX = 1 << 2 };

/* The path of the record is that of the program that was to be executed, of the file, or of the target; the second path is the
 * acting program, and the text the new name of a file. */
struct refused_detail {
	struct tier_detail tier;
	u64 host[2]; /* IPv6, in numbers; IPv4 is mapped into it */
	u32 event;
	u32 operation; /* a bit */
	u32 protocol; /* a bit */
	u32 port;
	u32 has_host;
	u32 target_pid;
};

_Static_assert(sizeof(struct refused_detail) == sizeof(struct tier_detail) + 40, "src/record/refused.rs counts on it");

SCRATCHES(refuse_scratch, SLOTS);
WALK(walk_refuse, refuse_scratch)
TIER(tier_refuse, refuse_scratch)

struct decision {
	struct scratch *s;
	struct tier_state *t;
	/* Where the acting program's path stands. */
	u32 from;
	u32 to;
	bool known;
	bool found;
	u16 flags;
};

INLINE u64 this_thread(void)
{
	return bpf_get_current_task();
}

/* Begins a decision. No: there is none. */
INLINE bool begin(struct decision *d, u32 slot, u32 event, u32 operation)
{
	d->s = bpf_map_lookup_elem(&refuse_scratch, &slot);
	d->t = bpf_map_lookup_elem(&tier_states, &slot);
	if (!d->s || !d->t)
		return 0;
	*(volatile u64 *)&d->t->owner = this_thread();
	if (!tier_begin(d->t, event))
		return 0;
	d->t->operation = operation;
	d->t->known[ROLE_OBJECT] = 1;
#pragma clang loop unroll(full)
	for (u32 i = 0; i < WAYS; i++)
		d->t->entries[ROLE_OBJECT][i].atoms[0] = d->t->entries[ROLE_OBJECT][i].policies[0] = 0;
	d->s->pos = sizeof(struct refused_detail);
	d->s->record.path_len = 0;
	d->found = 0;
	d->flags = 0;
	return 1;
}

/* Whether the policies can be found by the acting program, or are asked about everything. */
INLINE bool asks_anyway(struct tier_state *t)
{
	return (t->head.programs | t->head.always_events) & t->event;
}

/* The object that is acted upon: a path. Its length goes into the record, which is filled later. */
INLINE u32 add_object(struct decision *d, u32 slot, void *dentry, void *mnt)
{
	u32 from = d->s->pos;
	u16 cut = add_raw_path(d->s, dentry, mnt, FLAG_PATH_CUT, walk_refuse, slot);

	d->flags |= cut;
	d->t->file_inode = 0;
	d->found |= tier_refuse_look_up(slot, ROLE_OBJECT, from, d->s->pos, !cut);
	return d->s->pos - from;
}

INLINE void note_file(struct tier_state *t, void *file)
{
	void *inode = read(struct file, file, f_inode);
	void *dentry = read(struct file, file, f_path.dentry);
	bool detached = read(struct dentry, dentry, d_parent) == dentry;
	u32 links = read(struct inode, inode, i_nlink);

	t->file_inode = read(struct inode, inode, i_ino);
	t->file_device = read(struct super_block, read(struct inode, inode, i_sb), s_dev);
	t->inode = t->file_inode;
	t->device = tier_device(t->file_device);
	t->memfd = detached && !links && is_memfd(read(struct dentry, dentry, d_name.name));
	t->deleted = !links || (!detached && !read(struct dentry, dentry, d_hash.pprev));
}

/* A program: that of a file, in a role. */
INLINE void add_program(struct decision *d, u32 slot, u32 role, void *file, u16 cut_flag)
{
	u32 from = d->s->pos;
	u16 cut = cut_flag;

	d->t->file_inode = 0;
	if (file) {
		if (role == ROLE_PROGRAM)
			note_file(d->t, file);
		cut = add_raw_path(d->s, read(struct file, file, f_path.dentry), read(struct file, file, f_path.mnt), cut_flag,
				   walk_refuse, slot);
	}
	d->found |= tier_refuse_look_up(slot, role, from, d->s->pos, !cut);
	d->flags |= cut;
	if (role == ROLE_PROGRAM) {
		d->from = from;
		d->to = d->s->pos;
		d->known = !cut;
	}
}

INLINE void *program_of(void *task)
{
	return read(struct mm_struct, read(struct task_struct, task, mm), exe_file);
}

INLINE void look_up_parent(struct decision *d, u32 slot)
{
	void *parent = read(struct task_struct, (void *)bpf_get_current_task(), real_parent);
	u32 pos = d->s->pos;
	u16 flags = d->flags;
	bool found = d->found;

	add_program(d, slot, ROLE_PARENT, program_of(parent), FLAG_PATH_CUT);
	d->s->pos = pos;
	d->flags = flags;
	d->found = found;
}

/* What would have been told if it had happened. */
INLINE u32 kind_of(u32 slot)
{
	switch (slot) {
	case SLOT_EXEC:
		return RECORD_EXEC;
	case SLOT_CONNECT:
		return RECORD_CONNECT;
	case SLOT_PTRACE:
		return RECORD_PTRACE;
	case SLOT_MODULE:
		return RECORD_MODULE;
	default:
		return RECORD_FILE;
	}
}

INLINE void fill_process(struct decision *d, u32 slot)
{
	u16 path_len = d->s->record.path_len;

	fill_current(&d->s->record, RECORD_REFUSED);
	d->s->record.path_len = path_len;
	d->s->record.lost = lost_so_far(1, kind_of(slot));
	d->s->record.detail_len = sizeof(struct refused_detail);
	tier_process(d->t, &d->s->record);
}

INLINE void ask(struct decision *d, u32 slot)
{
	if (d->t->head.parents & d->t->event)
		look_up_parent(d, slot);
	tier_ask_role(slot, ROLE_OBJECT);
	tier_ask_role(slot, ROLE_PROGRAM);
	tier_ask_always(slot);
}

enum outcome { GO_ON = 0, REFUSE = 1, AGAIN = 2 };

/* The end of a decision: whether it is refused, which a record says then. */
INLINE int conclude(struct decision *d, u32 slot)
{
	struct tier_state *t = d->t;
	struct refused_detail *detail = (void *)d->s->tail;
	bool refused = t->wanted & ACTION_BLOCK && !tier_refuse_guarded(slot, d->from, d->to, d->known);

	/* Another thread has used what this one decided by. */
	if (*(volatile u64 *)&t->owner != this_thread())
		return AGAIN;
	if (!refused)
		return GO_ON;
	detail->tier = t->detail;
	detail->host[0] = t->host[0];
	detail->host[1] = t->host[1];
	detail->event = t->event;
	detail->operation = t->operation;
	detail->protocol = t->protocol;
	detail->port = t->port;
	detail->has_host = t->has_host;
	detail->target_pid = t->target_pid;
	emit_decided(d->s, 1, kind_of(slot), d->flags);
	return REFUSE;
}

/* What everything does but an exec, once the object is known. */
INLINE int decide(struct decision *d, u32 slot)
{
	if (!d->found && !asks_anyway(d->t))
		return *(volatile u64 *)&d->t->owner != this_thread() ? AGAIN : GO_ON;
	fill_process(d, slot);
	add_program(d, slot, ROLE_PROGRAM, program_of((void *)bpf_get_current_task()), FLAG_PATH2_CUT);
	d->s->record.path2_len = d->to - d->from;
	ask(d, slot);
	return conclude(d, slot);
}

/* What comes again is the exception: so the compiler has the loop end in a jump, and Linux 5.10 takes no other loops. */
#define REPEATED(kind, attempt)                                    \
	({                                                     \
		int outcome_ = AGAIN;                          \
		_Pragma("clang loop unroll(disable)")          \
		for (int i_ = 0; i_ < ATTEMPTS; i_++) {        \
			outcome_ = attempt;                    \
			if (__builtin_expect(outcome_ != AGAIN, 1)) \
				break;                         \
		}                                              \
		if (outcome_ == AGAIN)                         \
			count(1, kind, LOST_NOT_RUN);          \
		outcome_ == REFUSE;                            \
	})

INLINE int attempt_exec(struct linux_binprm *bprm)
{
	struct decision d = {};

	if (!begin(&d, SLOT_EXEC, TIER_EXEC_ASKED, 0))
		return GO_ON;
	add_program(&d, SLOT_EXEC, ROLE_PROGRAM, read(struct linux_binprm, bprm, file), FLAG_PATH_CUT);
	d.s->record.path_len = d.to - d.from;
	if (!d.found && !(d.t->head.always_events & TIER_EXEC_ASKED))
		return *(volatile u64 *)&d.t->owner != this_thread() ? AGAIN : GO_ON;
	fill_process(&d, SLOT_EXEC);
	d.s->record.inode = d.t->inode;
	d.s->record.device = d.t->file_device;
	d.flags |= FLAG_FILE | (d.t->memfd ? FLAG_MEMFD : 0) | (d.t->deleted ? FLAG_DELETED : 0);
	if (d.t->head.parents & TIER_EXEC_ASKED)
		look_up_parent(&d, SLOT_EXEC);
	tier_ask_role(SLOT_EXEC, ROLE_PROGRAM);
	tier_ask_always(SLOT_EXEC);
	return conclude(&d, SLOT_EXEC);
}

/* The interpreter of a script has been found by now, and nothing has been given up of the old program. */
SEC("lsm/bprm_creds_from_file")
int refuse_exec(u64 *ctx)
{
	return REPEATED(RECORD_EXEC, attempt_exec((void *)ctx[0])) ? -EPERM : 0;
}

/* A file under one name. */
INLINE int attempt_file(u32 slot, u32 operation, void *dentry, void *mnt)
{
	struct decision d = {};
	u32 len;

	if (!begin(&d, slot, TIER_FILE, operation))
		return GO_ON;
	len = add_object(&d, slot, dentry, mnt);
	d.s->record.path_len = len;
	return decide(&d, slot);
}

/* A file that is renamed or linked: under its new name, and for those who ask under the old one. */
INLINE int attempt_rename(u32 slot, u32 operation, void *old, void *old_mnt, void *new, void *new_mnt)
{
	struct decision d = {};
	u32 from, len;
	bool known;

	if (!begin(&d, slot, TIER_FILE | TIER_FILE_OLD, operation))
		return GO_ON;
	d.t->event = TIER_FILE;
	from = d.s->pos;
	len = add_object(&d, slot, old, old_mnt);
	known = !(d.flags & FLAG_PATH_CUT);
	d.s->record.path_len = len;
	/* Looked up twice: what is asked first is the new name. */
	fill_process(&d, slot);
	add_program(&d, slot, ROLE_PROGRAM, program_of((void *)bpf_get_current_task()), FLAG_PATH2_CUT);
	d.s->record.path2_len = d.to - d.from;
	len = add_object(&d, slot, new, new_mnt);
	d.s->record.text_len = len;
	ask(&d, slot);
	if (operation == FILE_RENAME) {
		d.t->event = TIER_FILE_OLD;
		d.t->file_inode = 0;
		tier_refuse_look_up(slot, ROLE_OBJECT, from, from + d.s->record.path_len, known);
		tier_ask_role(slot, ROLE_OBJECT);
		tier_ask_role(slot, ROLE_PROGRAM);
		tier_ask_always(slot);
		d.t->event = TIER_FILE;
	}
	return conclude(&d, slot);
}

SEC("lsm/file_open")
int refuse_open(u64 *ctx)
{
	void *file = (void *)ctx[0];

	/* What was created just now was asked about when it was. */
	if ((read(struct file, file, f_mode) & (FMODE_WRITE | FMODE_CREATED)) != FMODE_WRITE)
		return 0;
	return REPEATED(RECORD_FILE, attempt_file(SLOT_OPEN, FILE_OPEN_WRITE, read(struct file, file, f_path.dentry),
				     read(struct file, file, f_path.mnt))) ?
		       -EPERM :
		       0;
}

#define MNT_OF(place) read(struct path, (void *)(place), mnt)
#define DENTRY_OF(place) read(struct path, (void *)(place), dentry)

SEC("lsm/path_mknod")
int refuse_create(u64 *ctx)
{
	return REPEATED(RECORD_FILE, attempt_file(SLOT_CREATE, FILE_CREATE, (void *)ctx[1], MNT_OF(ctx[0]))) ? -EPERM : 0;
}

SEC("lsm/path_unlink")
int refuse_unlink(u64 *ctx)
{
	return REPEATED(RECORD_FILE, attempt_file(SLOT_UNLINK, FILE_UNLINK, (void *)ctx[1], MNT_OF(ctx[0]))) ? -EPERM : 0;
}

SEC("lsm/path_truncate")
int refuse_truncate(u64 *ctx)
{
	return REPEATED(RECORD_FILE, attempt_file(SLOT_TRUNCATE, FILE_TRUNCATE, DENTRY_OF(ctx[0]), MNT_OF(ctx[0]))) ? -EPERM : 0;
}

SEC("lsm/path_chmod")
int refuse_chmod(u64 *ctx)
{
	return REPEATED(RECORD_FILE, attempt_file(SLOT_CHMOD, FILE_CHMOD, DENTRY_OF(ctx[0]), MNT_OF(ctx[0]))) ? -EPERM : 0;
}

SEC("lsm/path_rename")
int refuse_rename(u64 *ctx)
{
	return REPEATED(RECORD_FILE, attempt_rename(SLOT_RENAME, FILE_RENAME, (void *)ctx[1], MNT_OF(ctx[0]), (void *)ctx[3],
				       MNT_OF(ctx[2]))) ?
		       -EPERM :
		       0;
}

/* The old name is given through the mount of the new one. */
SEC("lsm/path_link")
int refuse_link(u64 *ctx)
{
	return REPEATED(RECORD_FILE, attempt_rename(SLOT_LINK, FILE_LINK, (void *)ctx[0], MNT_OF(ctx[1]), (void *)ctx[2], MNT_OF(ctx[1]))) ?
		       -EPERM :
		       0;
}

INLINE u64 swapped(u32 high, u32 low)
{
	return (u64)__builtin_bswap32(high) << 32 | __builtin_bswap32(low);
}

/* The address in words of the network's byte order; family 0 for those of UNIX sockets. */
INLINE int attempt_connect(u32 protocol, u32 family, const u32 *words, u32 port)
{
	struct decision d = {};

	if (!begin(&d, SLOT_CONNECT, TIER_CONNECT, protocol))
		return GO_ON;
	d.t->protocol = protocol;
	d.t->has_host = family != 0;
	d.t->port = port;
	if (family == AF_INET) {
		d.t->host[0] = 0;
		d.t->host[1] = 0xffffull << 32 | __builtin_bswap32(words[0]);
	} else if (family == AF_INET6) {
		d.t->host[0] = swapped(words[0], words[1]);
		d.t->host[1] = swapped(words[2], words[3]);
	}
	return decide(&d, SLOT_CONNECT);
}

SEC("lsm/socket_connect")
int refuse_connect(u64 *ctx)
{
	void *sock = (void *)ctx[0], *address = (void *)ctx[1];
	void *sk = read(struct socket, sock, sk);
	u16 family = 0, port = 0, kind;
	u32 words[4] = {};
	u32 protocol;

	bpf_probe_read_kernel(&family, sizeof(family), address);
	if (family == AF_INET) {
		bpf_probe_read_kernel(&port, sizeof(port), address + 2);
		bpf_probe_read_kernel(words, 4, address + 4);
	} else if (family == AF_INET6) {
		bpf_probe_read_kernel(&port, sizeof(port), address + 2);
		bpf_probe_read_kernel(words, 16, address + 8);
	} else if (family != AF_UNIX) {
		return 0;
	}
	kind = read(struct sock, sk, sk_protocol);
	if (family == AF_UNIX)
		protocol = OVER_UNIX;
	else if (kind == IPPROTO_TCP || kind == IPPROTO_MPTCP)
		protocol = OVER_TCP;
	else if (kind == IPPROTO_UDP || kind == IPPROTO_UDPLITE)
		protocol = OVER_UDP;
	else
		return 0;
	return REPEATED(RECORD_CONNECT, attempt_connect(protocol, family == AF_UNIX ? 0 : family, words, __builtin_bswap16(port))) ? -EPERM : 0;
}

INLINE u32 protocol_of(volatile struct bpf_sock_addr *ctx)
{
	u32 protocol = ctx->protocol;

	if (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)
		return OVER_TCP;
	return protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE ? OVER_UDP : 0;
}

SEC("cgroup/connect4")
int refuse_connect4(struct bpf_sock_addr *context)
{
	volatile struct bpf_sock_addr *ctx = context;
	u32 words[4] = { ctx->user_ip4 };
	u32 port = __builtin_bswap16(ctx->user_port), protocol = protocol_of(ctx);

	if (!protocol)
		return 1;
	return REPEATED(RECORD_CONNECT, attempt_connect(protocol, AF_INET, words, port)) ? 0 : 1;
}

SEC("cgroup/connect6")
int refuse_connect6(struct bpf_sock_addr *context)
{
	volatile struct bpf_sock_addr *ctx = context;
	u32 words[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };
	u32 port = __builtin_bswap16(ctx->user_port), protocol = protocol_of(ctx);

	if (!protocol)
		return 1;
	return REPEATED(RECORD_CONNECT, attempt_connect(protocol, AF_INET6, words, port)) ? 0 : 1;
}

INLINE int attempt_ptrace(void *child)
{
	struct decision d = {};
	u32 from;

	if (!begin(&d, SLOT_PTRACE, TIER_PTRACE, 0))
		return GO_ON;
	d.t->target_pid = read(struct task_struct, child, tgid);
	from = d.s->pos;
	add_program(&d, SLOT_PTRACE, ROLE_OBJECT, program_of(child), FLAG_PATH_CUT);
	d.s->record.path_len = d.s->pos - from;
	return decide(&d, SLOT_PTRACE);
}

SEC("lsm/ptrace_access_check")
int refuse_ptrace(u64 *ctx)
{
	if (!((u32)ctx[1] & PTRACE_MODE_ATTACH))
		return 0;
	return REPEATED(RECORD_PTRACE, attempt_ptrace((void *)ctx[0])) ? -EPERM : 0;
}

INLINE int attempt_module(u32 operation)
{
	struct decision d = {};

	if (!begin(&d, SLOT_MODULE, TIER_MODULE, operation))
		return GO_ON;
	return decide(&d, SLOT_MODULE);
}

INLINE bool is_read_module(u32 id)
{
	if (id == enum_value(enum kernel_read_file_id, READING_MODULE))
		return 1;
	return enum_exists(enum kernel_read_file_id, READING_MODULE_COMPRESSED) &&
	       id == enum_value(enum kernel_read_file_id, READING_MODULE_COMPRESSED);
}

SEC("lsm/kernel_read_file")
int refuse_read_file(u64 *ctx)
{
	u32 id = ctx[1], operation;

	if (is_read_module(id))
		operation = LOADED_MODULE;
	else if (id == enum_value(enum kernel_read_file_id, READING_KEXEC_IMAGE))
		operation = LOADED_KEXEC;
	else
		return 0;
	return REPEATED(RECORD_MODULE, attempt_module(operation)) ? -EPERM : 0;
}

SEC("lsm/kernel_load_data")
int refuse_load_data(u64 *ctx)
{
	u32 id = ctx[0], operation;

	if (id == enum_value(enum kernel_load_data_id, LOADING_MODULE))
		operation = LOADED_MODULE;
	else if (id == enum_value(enum kernel_load_data_id, LOADING_KEXEC_IMAGE))
		operation = LOADED_KEXEC;
	else
		return 0;
	return REPEATED(RECORD_MODULE, attempt_module(operation)) ? -EPERM : 0;
}

SEC("lsm/bpf")
int refuse_bpf(u64 *ctx)
{
	if ((u32)ctx[0] != BPF_PROG_LOAD)
		return 0;
	return REPEATED(RECORD_MODULE, attempt_module(LOADED_BPF)) ? -EPERM : 0;
}
