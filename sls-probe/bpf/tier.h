/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The kernel tier: policies as maps, decided where the event happens. src/tier/layout.rs has the same layout.
 *
 * What a policy names becomes atoms: an atom is true of a path or of a file, and tests ask for atoms. The maps of paths, files
 * and prefixes say for a path which atoms it has and which policies are to be asked about it, so the cost of an event does
 * not depend on how many policies there are. Every key has a generation in it, and one word says which is in force: it is
 * read once for an event. */
#ifndef SLS_TIER_H
#define SLS_TIER_H

/* The longest path that a key has; and the components that one can have. */
#define TIER_PATH_BYTES 252
#define TIER_COMPONENTS 128
#define ENTRY_ATOMS 16
#define ENTRY_POLICIES 16
#define ALWAYS 32
#define POLICY_TESTS 64
#define VERDICTS 4
#define TIER_SLOTS 11
#define TIER_CGROUP_LEVELS 16
#define TIER_ROOTS 4
#define TIER_ROOT_BYTES 32
#define TIER_NAME_BYTES 120
/* Of the paths of programs that are protected. */
#define ATOM_PROTECTED 0xffff

/* What is decided about: bits. */
enum tier_event {
	TIER_EXEC = 1 << 0,
	TIER_FILE = 1 << 1,
	TIER_CONNECT = 1 << 2,
	TIER_PTRACE = 1 << 3,
	TIER_MODULE = 1 << 4,
	/* A file under the name that it loses. */
	TIER_FILE_OLD = 1 << 5,
	/* An exec that can still be refused. */
	TIER_EXEC_ASKED = 1 << 6,
};

/* Low byte: a signal. */
enum tier_action {
	ACTION_SIGNAL = 0xff,
	ACTION_BLOCK = 1 << 8,
};

/* Whose path it is. */
enum tier_role {
	ROLE_PROGRAM = 0,
	ROLE_PARENT = 1,
	/* A file, or the program of a target. */
	ROLE_OBJECT = 2,
	ROLES = 3,
};

/* How an entry of a role was found. */
enum tier_way { WAY_FILE = 0, WAY_PATH = 1, WAY_BEGINNING = 2, WAY_END = 3, WAYS = 4 };

enum tier_test_kind {
	TEST_ALWAYS = 0,
	/* `a` is an atom. */
	TEST_PROGRAM = 1,
	TEST_PARENT = 2,
	TEST_OBJECT = 3,
	/* From `from` to `to`. */
	TEST_UID = 4,
	TEST_GID = 5,
	TEST_EUID = 6,
	TEST_EGID = 7,
	TEST_INODE = 8,
	TEST_DEVICE = 9,
	TEST_PID = 10,
	TEST_PARENT_PID = 11,
	TEST_TARGET_PID = 12,
	TEST_PORT = 13,
	TEST_MEMFD = 14,
	TEST_DELETED = 15,
	/* `from` has the bits. */
	TEST_OPERATION = 16,
	TEST_PROTOCOL = 17,
	/* A network of IPv6: `a` bits of `from` and `to`. IPv4 is mapped into it. */
	TEST_NETWORK = 18,
};

enum tier_test_flag {
	TEST_NEGATED = 1 << 0,
	/* The last of its rule. */
	TEST_LAST = 1 << 1,
	/* Its rule matches; else it ignores. */
	TEST_MATCHES = 1 << 2,
	/* It or the next one, before anything else. */
	TEST_OR = 1 << 3,
};

enum tier_truth { TIER_FALSE = 0, TIER_UNKNOWN = 1, TIER_TRUE = 2 };

/* What came of a match. */
enum tier_result {
	RESULT_DONE = 1,
	/* The policy may not act just now: it is in dry run, or has acted on too many. */
	RESULT_WITHHELD = 2,
	/* Something protects the process, as far as the kernel can tell: user space decides. */
	RESULT_GUARDED = 3,
	RESULT_FAILED = 4,
};

struct tier_path {
	u32 generation;
	u8 path[TIER_PATH_BYTES]; /* components leaf to root, each with a NUL; then zeros */
};

struct tier_prefix {
	u32 bits; /* of all that follows */
	u32 generation;
	u8 path[TIER_PATH_BYTES]; /* as people write it, or backwards; a NUL at its end counts */
};

struct tier_file {
	u64 inode;
	u32 device; /* kernel encoding */
	u32 generation;
};

/* 0 is none, and ends the list. */
struct tier_entry {
	u16 atoms[ENTRY_ATOMS];
	u16 policies[ENTRY_POLICIES];
};

struct tier_number {
	u32 generation;
	u32 policy;
};

struct tier_test {
	u8 kind;
	u8 flags;
	u16 rule; /* of the policy */
	u32 a;
	u64 from;
	u64 to;
};

struct tier_policy {
	u32 tests;
	u32 action;
	u32 events;
	u32 operations; /* bits; of kinds in which one of several things happens */
	struct tier_test test[POLICY_TESTS];
};

/* On how many targets a policy may act, until user space says so again. */
struct tier_allowance {
	u64 allowed;
	u64 spent; /* written here */
};

/* Which policy it is: for the sensor that comes after this one. */
struct tier_name {
	u64 digest; /* of its rules, and of what decides */
	u8 name[TIER_NAME_BYTES];
};

/* What a generation has, so that nothing is looked up in vain. Each is a set of events. */
struct tier_head {
	u32 files;
	u32 beginnings;
	u32 ends;
	u32 programs;
	u32 parents;
	u32 events;
	u32 pid_namespace; /* of the host: paths protect there alone. 0: everywhere */
	u32 mount_namespace;
	u32 cgroups; /* some are protected */
	u32 always_events; /* of `always` */
	u32 roots[TIER_ROOTS]; /* how the topmost directories begin below which a beginning is protected; 0: none */
	u16 always[ALWAYS]; /* policies that are asked about everything */
};

enum tier_guard_kind { GUARD_PID = 1, GUARD_CGROUP = 2 };

struct tier_guard_key {
	u64 value;
	u32 generation;
	u32 kind;
};

struct tier_guard {
	u64 start; /* in steps */
	u64 step; /* ns; 0: whenever it started */
};

_Static_assert(sizeof(struct tier_entry) == 64 && sizeof(struct tier_policy) == 16 + 24 * POLICY_TESTS &&
		       sizeof(struct tier_head) == 120 && sizeof(struct tier_name) == 128,
	       "src/tier/layout.rs counts on it");

/* What a record says of the tier, in its detail. */
struct tier_verdict {
	u16 policy;
	u16 rule;
	u8 result;
	u8 action; /* a signal; 0: refused */
	u16 zero;
};

struct tier_detail {
	u32 generation;
	u16 verdicts; /* those beyond VERDICTS are counted only */
	u16 zero;
	struct tier_verdict verdict[VERDICTS];
};

#define TIER_HASH(name, entries, key_type, value_type)        \
	struct {                                              \
		MAP_UINT(type, BPF_MAP_TYPE_HASH);            \
		MAP_UINT(max_entries, entries);               \
		MAP_UINT(map_flags, BPF_F_NO_PREALLOC);       \
		MAP_TYPE(key, key_type);                      \
		MAP_TYPE(value, value_type);                  \
	} name SEC(".maps")

#define TIER_TRIE(name, entries, value_type)                  \
	struct {                                              \
		MAP_UINT(type, BPF_MAP_TYPE_LPM_TRIE);        \
		MAP_UINT(max_entries, entries);               \
		MAP_UINT(map_flags, BPF_F_NO_PREALLOC);       \
		MAP_TYPE(key, struct tier_prefix);            \
		MAP_TYPE(value, value_type);                  \
	} name SEC(".maps")

/* Each has room for two generations; user space checks the half of it. */
TIER_HASH(tier_paths, 2 * 8192, struct tier_path, struct tier_entry);
TIER_HASH(tier_files, 2 * 8192, struct tier_file, struct tier_entry);
TIER_HASH(tier_policies, 2 * 4096, struct tier_number, struct tier_policy);
TIER_HASH(tier_allowances, 2 * 4096, struct tier_number, struct tier_allowance);
TIER_HASH(tier_guards, 2 * 1024, struct tier_guard_key, struct tier_guard);
TIER_HASH(tier_names, 2 * 4096, struct tier_number, struct tier_name);
TIER_HASH(tier_heads, 2, u32, struct tier_head);
TIER_TRIE(tier_beginnings, 2 * 4096, struct tier_entry);
TIER_TRIE(tier_ends, 2 * 4096, struct tier_entry);
TIER_TRIE(tier_protected, 2 * 4096, u32);

/* The generation in force; 0: none. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} tier_generation SEC(".maps");

/* Whether the sensor has ended, and left its pinned programs alone. */
struct sensor_away {
	u32 away;
	u32 lost; /* decisions that found no room, since */
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct sensor_away);
} sensor_away SEC(".maps");

INLINE struct sensor_away *tier_away(void)
{
	u32 zero = 0;
	struct sensor_away *sensor = bpf_map_lookup_elem(&sensor_away, &zero);

	return sensor && *(volatile u32 *)&sensor->away ? sensor : NULL;
}

/* Sends a record of what was decided. What is lost while the sensor is away is counted by itself: the one that comes next does
 * not know what had been lost before. */
INLINE void tier_emit(struct scratch *s, bool refused, u32 kind, u16 flags)
{
	struct sensor_away *sensor;

	if (!emit_decided(s, refused, kind, flags))
		return;
	sensor = tier_away();
	if (sensor)
		__sync_fetch_and_add(&sensor->lost, 1);
}

/* What is known of the event under decision. A slot a program, as with scratches. */
struct tier_state {
	u32 generation;
	u32 event;
	u64 owner; /* the thread that it is about */
	u64 inode;
	u64 device; /* as stat(2) gives it */
	u64 host[2];
	u32 uid;
	u32 gid;
	u32 euid;
	u32 egid;
	u32 pid;
	u32 parent_pid;
	u32 target_pid;
	u32 port;
	u32 memfd;
	u32 deleted;
	u32 operation; /* a bit */
	u32 protocol; /* a bit */
	/* 0 if the path could not be had whole. */
	u32 known[ROLES];
	u32 has_host;
	/* The file of the role that is looked up next. */
	u64 file_inode;
	u32 file_device;
	struct tier_head head;
	struct tier_entry entries[ROLES][WAYS];
	/* Of the tests that are joined, of the rule, of the policy under way. */
	u32 any;
	u32 rule;
	u32 verdict;
	/* What all policies want together. */
	u32 wanted;
	u32 in_path; /* the role whose path stands whole in `path`; ROLES: none */
	u32 zero;
	u32 len;
	u32 at;
	u32 count;
	u32 number; /* of the rule that decided */
	struct tier_detail detail;
	struct tier_path path;
	u8 spare[NAME_BYTES];
	struct tier_prefix prefix;
	u8 spare2[NAME_BYTES];
	struct tier_prefix backwards;
	u8 name[NAME_BYTES];
	u16 starts[TIER_COMPONENTS];
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_UINT(max_entries, TIER_SLOTS);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct tier_state);
} tier_states SEC(".maps");

/* Makes `prefix` of what stands in `path`: components leaf to root become a path. A component that is cut is left out.
 * Returns its length with its NUL; 0 if there is nothing. */
__attribute__((noinline)) int tier_turn(u32 slot)
{
	struct tier_state *t = bpf_map_lookup_elem(&tier_states, &slot);

	if (!t)
		return 0;
	/* What changes from step to step is in memory, so that all steps look the same to the verifier. */
	t->at = t->count = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < TIER_COMPONENTS; i++) {
		u32 at = t->at, count = t->count;
		long len;

		if (at >= t->len)
			break;
		len = bpf_probe_read_kernel_str(t->name, NAME_BYTES, t->path.path + (at & 0xff));
		if (len <= 0)
			return 0;
		if (at + len > t->len)
			break;
		t->starts[count & (TIER_COMPONENTS - 1)] = at;
		t->count = count + 1;
		t->at = at + len;
	}
	t->at = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < TIER_COMPONENTS; i++) {
		u32 at = t->at, from = t->count - 1;
		long len;

		if (from >= TIER_COMPONENTS || at >= TIER_PATH_BYTES)
			break;
		t->prefix.path[at & 0xff] = '/';
		at = (at + 1) & 0xff;
		len = bpf_probe_read_kernel_str(t->prefix.path + at, NAME_BYTES, t->path.path + (t->starts[from] & 0xff));
		if (len <= 0)
			return 0;
		t->count = from;
		t->at = at + len - 1;
	}
	return t->at ? t->at + 1 : 0;
}

/* Makes `backwards` of the first `len` bytes of `prefix`. */
__attribute__((noinline)) int tier_mirror(u32 slot, u32 len)
{
	struct tier_state *t = bpf_map_lookup_elem(&tier_states, &slot);

	if (!t || len > TIER_PATH_BYTES)
		return 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < TIER_PATH_BYTES; i++) {
		u32 from = len - 1 - i;

		if (i >= len)
			break;
		t->backwards.path[i] = t->prefix.path[from & 0xff];
	}
	return 0;
}

/* Copies the part of the scratch from `from` to `to`, as much as a key has room for, from the end if `last`. */
INLINE void tier_copy(struct tier_state *t, struct scratch *s, u32 from, u32 to, bool last)
{
	u32 len = to - from, size;

	if (len > TIER_PATH_BYTES) {
		if (last)
			from = to - TIER_PATH_BYTES;
		len = TIER_PATH_BYTES;
	}
	size = len;
	opaque(size);
	if (size > TIER_PATH_BYTES)
		size = TIER_PATH_BYTES;
	__builtin_memset(t->path.path, 0, sizeof(t->path.path));
	bpf_probe_read_kernel(t->path.path, size, s->tail + (from & POS_MASK));
	t->path.generation = t->generation;
	t->len = size;
}

/* The first component may have lost its beginning: only those behind it count. */
INLINE void tier_drop_leaf(struct tier_state *t)
{
	long len = bpf_probe_read_kernel_str(t->name, NAME_BYTES, t->path.path);
	u32 left;

	if (len <= 0 || len >= TIER_PATH_BYTES) {
		t->len = 0;
		return;
	}
	left = TIER_PATH_BYTES - len;
	opaque(left);
	if (left > TIER_PATH_BYTES)
		left = TIER_PATH_BYTES;
	bpf_probe_read_kernel(t->spare, left, t->path.path + (len & 0xff));
	bpf_probe_read_kernel(t->path.path, left, t->spare);
	t->len = left;
}

/* The beginning of the path as a key. Returns the length without a NUL; 0: none. */
INLINE u32 tier_beginning(struct tier_state *t, u32 slot, bool whole)
{
	u32 len;

	if (!whole)
		tier_drop_leaf(t);
	len = tier_turn(slot);
	if (!len)
		return 0;
	/* Of a path that was shortened, the end is not that of the path. */
	t->prefix.bits = 32 + 8 * (len > TIER_PATH_BYTES || !whole ? len - 1 : len);
	t->prefix.generation = t->generation;
	return len - 1;
}

INLINE bool tier_take(struct tier_state *t, u32 role, u32 way, struct tier_entry *entry)
{
	if (!entry)
		return 0;
	t->entries[role][way] = *entry;
	return 1;
}

/* Looks up the path that stands in the scratch from `from` to `to`, and the file of `file_inode`. Returns whether there is
 * anything. */
INLINE bool tier_look_up(struct tier_state *t, u32 slot, u32 role, struct scratch *s, u32 from, u32 to, bool known)
{
	bool found = 0, whole = to - from <= TIER_PATH_BYTES;
	u32 len;

	t->known[role] = known;
#pragma clang loop unroll(full)
	for (u32 i = 0; i < WAYS; i++)
		t->entries[role][i].atoms[0] = t->entries[role][i].policies[0] = 0;
	if (t->head.files && t->file_inode) {
		struct tier_file file = {
			.inode = t->file_inode, .device = t->file_device, .generation = t->generation
		};

		struct tier_entry *entry = bpf_map_lookup_elem(&tier_files, &file);

		/* By now the number can be that of another file, and nobody says so. */
		if (entry && !tier_away())
			found |= tier_take(t, role, WAY_FILE, entry);
	}
	if (!known)
		return found;
	tier_copy(t, s, from, to, 1);
	t->in_path = whole ? role : ROLES;
	if (whole)
		found |= tier_take(t, role, WAY_PATH, bpf_map_lookup_elem(&tier_paths, &t->path));
	if (!t->head.beginnings && !t->head.ends)
		return found;
	len = tier_beginning(t, slot, whole);
	if (!len)
		t->known[role] = 0;
	else if (t->head.beginnings)
		found |= tier_take(t, role, WAY_BEGINNING, bpf_map_lookup_elem(&tier_beginnings, &t->prefix));
	if (!t->head.ends)
		return found;
	if (!whole) {
		tier_copy(t, s, from, to, 0);
		len = tier_turn(slot);
		if (len)
			len--;
	}
	if (!len || len > TIER_PATH_BYTES) {
		t->known[role] = 0;
		return found;
	}
	tier_mirror(slot, len);
	t->backwards.bits = 32 + 8 * len;
	t->backwards.generation = t->generation;
	return found | tier_take(t, role, WAY_END, bpf_map_lookup_elem(&tier_ends, &t->backwards));
}

/* Whether the path or the file of a role has an atom. Returns a truth. */
__attribute__((noinline)) int tier_has(u32 slot, u32 role, u32 atom)
{
	struct tier_state *t = bpf_map_lookup_elem(&tier_states, &slot);

	if (!t || role >= ROLES)
		return TIER_UNKNOWN;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < WAYS; i++) {
#pragma clang loop unroll(disable)
		for (u32 j = 0; j < ENTRY_ATOMS; j++) {
			u32 other = t->entries[role][i].atoms[j];

			if (!other)
				break;
			if (other == atom)
				return TIER_TRUE;
		}
	}
	return t->known[role] ? TIER_FALSE : TIER_UNKNOWN;
}

INLINE u32 tier_bool(bool value)
{
	return value ? TIER_TRUE : TIER_FALSE;
}

/* Whether `bits` of two numbers are the same, from the highest. */
INLINE bool tier_same(u64 one, u64 other, u32 bits)
{
	if (!bits)
		return 1;
	return bits >= 64 ? one == other : !((one ^ other) >> ((64 - bits) & 63));
}

/* One test. Returns a truth. */
__attribute__((noinline)) int tier_try(u32 slot, u32 policy, u32 index)
{
	struct tier_state *t = bpf_map_lookup_elem(&tier_states, &slot);
	struct tier_number number = { .policy = policy };
	struct tier_policy *p;
	struct tier_test *test;
	u64 value;

	if (!t || index >= POLICY_TESTS)
		return TIER_UNKNOWN;
	number.generation = t->generation;
	p = bpf_map_lookup_elem(&tier_policies, &number);
	if (!p)
		return TIER_UNKNOWN;
	test = &p->test[index];
	switch (test->kind) {
	case TEST_ALWAYS:
		return TIER_TRUE;
	case TEST_PROGRAM:
		return tier_has(slot, ROLE_PROGRAM, test->a);
	case TEST_PARENT:
		return tier_has(slot, ROLE_PARENT, test->a);
	case TEST_OBJECT:
		return tier_has(slot, ROLE_OBJECT, test->a);
	case TEST_MEMFD:
		return tier_bool(t->memfd);
	case TEST_DELETED:
		return tier_bool(t->deleted);
	case TEST_OPERATION:
		return tier_bool(t->operation & test->from);
	case TEST_PROTOCOL:
		return tier_bool(t->protocol & test->from);
	case TEST_NETWORK:
		return tier_bool(t->has_host && tier_same(t->host[0], test->from, test->a) &&
				 (test->a <= 64 || tier_same(t->host[1], test->to, test->a - 64)));
	case TEST_UID:
		value = t->uid;
		break;
	case TEST_GID:
		value = t->gid;
		break;
	case TEST_EUID:
		value = t->euid;
		break;
	case TEST_EGID:
		value = t->egid;
		break;
	case TEST_INODE:
		value = t->inode;
		break;
	case TEST_DEVICE:
		value = t->device;
		break;
	case TEST_PID:
		value = t->pid;
		break;
	case TEST_PARENT_PID:
		value = t->parent_pid;
		break;
	case TEST_TARGET_PID:
		value = t->target_pid;
		break;
	case TEST_PORT:
		if (!t->has_host)
			return TIER_FALSE;
		value = t->port;
		break;
	default:
		return TIER_UNKNOWN;
	}
	return tier_bool(value >= test->from && value <= test->to);
}

/* Whether a policy may act on one target more. */
INLINE bool tier_allows(struct tier_number *number)
{
	struct tier_allowance *allowance = bpf_map_lookup_elem(&tier_allowances, number);

	if (!allowance || *(volatile u64 *)&allowance->spent >= allowance->allowed)
		return 0;
	__sync_fetch_and_add(&allowance->spent, 1);
	/* Others may have come in between: then one of them is withheld too many. */
	return *(volatile u64 *)&allowance->spent <= allowance->allowed;
}

/* Decides one policy, and notes what it wants. */
__attribute__((noinline)) int tier_ask(u32 slot, u32 policy)
{
	struct tier_state *t = bpf_map_lookup_elem(&tier_states, &slot);
	struct tier_number number = { .policy = policy };
	struct tier_policy *p;
	struct tier_verdict *verdict;
	u32 count, action, result;

	if (!t)
		return 0;
	number.generation = t->generation;
	p = bpf_map_lookup_elem(&tier_policies, &number);
	if (!p || !(p->events & t->event))
		return 0;
	if (p->operations && !(p->operations & t->operation))
		return 0;
	t->any = TIER_FALSE;
	t->rule = TIER_TRUE;
	t->verdict = TIER_FALSE;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < POLICY_TESTS; i++) {
		u32 truth, flags;

		if (i >= p->tests)
			break;
		flags = p->test[i].flags;
		/* The first test that does not hold is the last of its rule. */
		if (t->rule == TIER_TRUE) {
			truth = tier_try(slot, policy, i);
			if (truth < t->any)
				truth = t->any;
			if (flags & TEST_OR) {
				t->any = truth;
				continue;
			}
			t->any = TIER_FALSE;
			if (flags & TEST_NEGATED)
				truth = TIER_TRUE - truth;
			t->rule = truth;
		}
		if (!(flags & TEST_LAST))
			continue;
		/* A value is missing: user space decides. */
		if (t->rule == TIER_UNKNOWN)
			break;
		if (t->rule == TIER_TRUE) {
			t->verdict = flags & TEST_MATCHES ? TIER_TRUE : TIER_FALSE;
			t->number = p->test[i].rule;
			break;
		}
		t->rule = TIER_TRUE;
	}
	if (t->verdict != TIER_TRUE)
		return 0;
	/* One that is named by a path and by its file is asked twice. */
#pragma clang loop unroll(full)
	for (u32 i = 0; i < VERDICTS; i++) {
		if (i < t->detail.verdicts && t->detail.verdict[i].policy == policy)
			return 0;
	}
	action = p->action;
	result = tier_allows(&number) ? RESULT_DONE : RESULT_WITHHELD;
	if (result == RESULT_DONE) {
		t->wanted |= action & ACTION_BLOCK;
		/* SIGKILL leaves nothing to stop. */
		if ((action & ACTION_SIGNAL) && (t->wanted & ACTION_SIGNAL) != SIGKILL)
			t->wanted = (t->wanted & ~ACTION_SIGNAL) | (action & ACTION_SIGNAL);
	}
	count = t->detail.verdicts;
	t->detail.verdicts = count + 1;
	if (count >= VERDICTS)
		return 0;
	verdict = &t->detail.verdict[count & (VERDICTS - 1)];
	verdict->policy = policy;
	verdict->rule = t->number;
	verdict->zero = 0;
	verdict->result = result;
	verdict->action = action & ACTION_SIGNAL;
	return 0;
}

/* Asks every policy that the entries of a role name. */
__attribute__((noinline)) int tier_ask_role(u32 slot, u32 role)
{
	struct tier_state *t = bpf_map_lookup_elem(&tier_states, &slot);

	if (!t || role >= ROLES)
		return 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < WAYS; i++) {
#pragma clang loop unroll(disable)
		for (u32 j = 0; j < ENTRY_POLICIES; j++) {
			u32 policy = t->entries[role][i].policies[j];

			if (!policy)
				break;
			tier_ask(slot, policy);
		}
	}
	return 0;
}

/* Asks those that are asked about everything. */
__attribute__((noinline)) int tier_ask_always(u32 slot)
{
	struct tier_state *t = bpf_map_lookup_elem(&tier_states, &slot);

	if (!t)
		return 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < ALWAYS; i++) {
		u32 policy = t->head.always[i];

		if (!policy)
			break;
		tier_ask(slot, policy);
	}
	return 0;
}

/* Begins a decision. No: there is nothing to decide. */
INLINE bool tier_begin(struct tier_state *t, u32 event)
{
	u32 zero = 0;
	u32 *generation = bpf_map_lookup_elem(&tier_generation, &zero);
	struct tier_head *head;

	t->detail.verdicts = 0;
	t->detail.zero = 0;
	t->detail.generation = 0;
	t->wanted = 0;
	if (!generation)
		return 0;
	t->generation = *(volatile u32 *)generation;
	if (!t->generation)
		return 0;
	head = bpf_map_lookup_elem(&tier_heads, &t->generation);
	if (!head || !(head->events & event))
		return 0;
	t->head = *head;
	t->detail.generation = t->generation;
	t->event = event;
	t->operation = 0;
	t->protocol = 0;
	t->has_host = 0;
	return 1;
}

/* Takes what a record says of the process. */
INLINE void tier_process(struct tier_state *t, struct record *r)
{
	t->uid = r->uid;
	t->gid = r->gid;
	t->euid = r->euid;
	t->egid = r->egid;
	t->pid = r->pid;
	t->parent_pid = r->parent_pid;
}

/* As stat(2) gives it. */
INLINE u64 tier_device(u32 device)
{
	u64 major = device >> 20, minor = device & 0xfffff;

	return (minor & 0xff) | major << 8 | (minor & ~0xffull) << 12;
}

INLINE bool tier_protects(struct tier_state *t, u32 kind, u64 value, u64 start)
{
	struct tier_guard_key key = { .value = value, .generation = t->generation, .kind = kind };
	struct tier_guard *guard = bpf_map_lookup_elem(&tier_guards, &key);

	if (!guard)
		return 0;
	return !guard->step || start / guard->step == guard->start;
}

/* Whether the process is in a cgroup that is protected, or below one. */
INLINE bool tier_protects_cgroup(struct tier_state *t)
{
	void *cgroup = read(struct css_set, read(struct task_struct, (void *)bpf_get_current_task(), cgroups), dfl_cgrp);

#pragma clang loop unroll(disable)
	for (u32 level = 0; level < TIER_CGROUP_LEVELS; level++) {
		void *above;

		if (tier_protects(t, GUARD_CGROUP, read(struct kernfs_node, read(struct cgroup, cgroup, kn), id), 0))
			return 1;
		above = read(struct cgroup, cgroup, self.parent);
		if (!above)
			return 0;
		cgroup = read(struct cgroup_subsys_state, above, cgroup);
	}
	/* Deeper than is looked. */
	return 1;
}

/* Whether the path that stands in `path` begins like one that is protected. Looks at its topmost directory. */
__attribute__((noinline)) int tier_may_be_protected(u32 slot)
{
	struct tier_state *t = bpf_map_lookup_elem(&tier_states, &slot);
	u32 root = 0, at;

	if (!t || t->len < 2)
		return 1;
	at = t->len - 2;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < TIER_ROOT_BYTES; i++) {
		if (!at || !t->path.path[(at - 1) & 0xff])
			break;
		at--;
	}
	/* Its name is longer than was looked. */
	if (at && t->path.path[(at - 1) & 0xff])
		return 1;
	bpf_probe_read_kernel(&root, sizeof(root), t->path.path + (at & 0xff));
#pragma clang loop unroll(full)
	for (u32 i = 0; i < TIER_ROOTS; i++) {
		if (t->head.roots[i] == root)
			return 1;
	}
	return t->head.roots[0] == ~0u;
}

/* Whether something protects the process. Asked only once something matched; its program's path stands in the scratch. */
INLINE bool tier_guarded(struct tier_state *t, u32 slot, struct scratch *s, u32 from, u32 to, bool known)
{
	struct record *r = &s->record;

	if (r->pid <= 1 || r->flags & FLAG_KERNEL_THREAD || tier_protects(t, GUARD_PID, r->pid, r->start) ||
	    (t->head.cgroups && tier_protects_cgroup(t)))
		return 1;
	if (t->head.pid_namespace && r->pid_namespace != t->head.pid_namespace)
		return 0;
	if (t->head.mount_namespace && r->mount_namespace != t->head.mount_namespace)
		return 0;
	/* What may be a protected program is one. */
	if (!known || tier_has(slot, ROLE_PROGRAM, ATOM_PROTECTED) != TIER_FALSE)
		return 1;
	if (t->in_path != ROLE_PROGRAM) {
		tier_copy(t, s, from, to, 1);
		t->in_path = ROLES;
	}
	if (!tier_may_be_protected(slot))
		return 0;
	if (!tier_beginning(t, slot, to - from <= TIER_PATH_BYTES))
		return 1;
	return bpf_map_lookup_elem(&tier_protected, &t->prefix) != NULL;
}

/* Says of every verdict that was to be carried out what came of it. */
INLINE void tier_conclude(struct tier_state *t, u32 result)
{
#pragma clang loop unroll(full)
	for (u32 i = 0; i < VERDICTS; i++) {
		if (t->detail.verdict[i].result == RESULT_DONE)
			t->detail.verdict[i].result = result;
	}
}


/* For each map of scratches, as WALK: its slots are those of the states. A path stands in the tail from `from` to `to`. */
#define TIER(name, scratch_map)                                                                     \
	__attribute__((noinline)) int name##_look_up(u32 slot, u32 role, u32 from, u32 to, u32 known) \
	{                                                                                           \
		struct scratch *s = bpf_map_lookup_elem(&scratch_map, &slot);                       \
		struct tier_state *t = bpf_map_lookup_elem(&tier_states, &slot);                    \
                                                                                                    \
		if (!s || !t || role >= ROLES)                                                      \
			return 0;                                                                   \
		return tier_look_up(t, slot, role, s, from, to, known);                             \
	}                                                                                           \
	__attribute__((noinline)) int name##_guarded(u32 slot, u32 from, u32 to, u32 known)         \
	{                                                                                           \
		struct scratch *s = bpf_map_lookup_elem(&scratch_map, &slot);                       \
		struct tier_state *t = bpf_map_lookup_elem(&tier_states, &slot);                    \
                                                                                                    \
		return !s || !t || tier_guarded(t, slot, s, from, to, known);                       \
	}

#endif
