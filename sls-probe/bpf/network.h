/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What connections have in common: the detail of their records, and what is wanted of them. */
#ifndef SLS_NETWORK_H
#define SLS_NETWORK_H

/* src/record/network.rs has the same numbers. */
enum protocol {
	PROTOCOL_TCP = 0,
	PROTOCOL_UDP = 1,
	PROTOCOL_UNIX = 2,
};

enum network_flag {
	/* The kernel has not chosen it yet, or does not say. */
	REMOTE_UNKNOWN = 1 << 0,
	LOCAL_HOST_UNKNOWN = 1 << 1,
	LOCAL_PORT_UNKNOWN = 1 << 2,
	/* The name of the record is an abstract one, without its first NUL. */
	ABSTRACT = 1 << 3,
	/* It is the path that was passed to bind or connect: the file is not at hand. */
	AS_PASSED = 1 << 4,
};

/* Of UNIX sockets: the path or the name of the record is the address. */
struct network_detail {
	u32 remote[4]; /* network byte order; IPv4: the first word */
	u32 local[4];
	u16 remote_port;
	u16 local_port;
	u16 family; /* AF_... */
	u8 protocol;
	u8 flags;
};

_Static_assert(sizeof(struct network_detail) == 40, "src/record/network.rs counts on it");

/* What is wanted; src/group/network.rs sets it. */
struct filter {
	u32 protocols[3]; /* of connect, accept, listen: bits by protocol */
	u32 any_port; /* else those in `ports` */
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct filter);
} filter SEC(".maps");

/* Remote ports that are wanted. Room for the old and the new ones during a change (2 * MAX_INTEREST_PORTS). */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 512);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} ports SEC(".maps");

/* A socket that sends to an address again within this time makes no new event. */
#define SEND_AGAIN_NS 30000000000ull
/* Sockets and addresses that are remembered for that. With more, an event can come again earlier. */
#define SENDS 4096

struct send {
	u64 socket;
	u64 peer[2]; /* the address, or the other socket */
	u32 port;
	u32 pid;
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, SENDS);
	MAP_TYPE(key, struct send);
	MAP_TYPE(value, u64);
} sends SEC(".maps");

INLINE bool wants(u32 kind, u32 protocol)
{
	u32 zero = 0;
	struct filter *wanted = bpf_map_lookup_elem(&filter, &zero);

	return wanted && wanted->protocols[kind - RECORD_CONNECT] & 1u << protocol;
}

INLINE bool wants_port(u32 port)
{
	u32 zero = 0;
	struct filter *wanted = bpf_map_lookup_elem(&filter, &zero);

	return wanted && (wanted->any_port || bpf_map_lookup_elem(&ports, &port));
}

/* Whether the same was not sent just now. */
INLINE bool is_new(void *map, const void *send)
{
	u64 now = bpf_ktime_get_boot_ns();
	u64 *last = bpf_map_lookup_elem(map, send);

	if (last && now - *last < SEND_AGAIN_NS)
		return 0;
	bpf_map_update_elem(map, send, &now, 0);
	return 1;
}

INLINE u32 current_pid(void)
{
	return read(struct task_struct, (void *)bpf_get_current_task(), tgid);
}

/* Without strings, and so without a scratch: programs of cgroups can be preempted by themselves. */
struct inet_record {
	struct record record;
	struct network_detail detail;
};

INLINE struct inet_record *begin(u8 kind, u8 protocol, u16 family)
{
	struct inet_record *r = reserve_bytes(kind, sizeof(*r));

	if (!r)
		return NULL;
	fill_current(&r->record, kind);
	r->record.len = sizeof(*r);
	r->record.detail_len = sizeof(r->detail);
	r->detail = (struct network_detail){ .protocol = protocol, .family = family };
	return r;
}

INLINE u16 family_of(void *sk)
{
	return read(struct sock, sk, __sk_common.skc_family);
}

/* Both ends of a socket that is connected. */
INLINE void add_ends(struct network_detail *detail, void *sk, u16 family)
{
	if (family == AF_INET6) {
		bpf_probe_read_kernel(detail->remote, sizeof(detail->remote),
				      sk + field_offset(struct sock, __sk_common.skc_v6_daddr));
		bpf_probe_read_kernel(detail->local, sizeof(detail->local),
				      sk + field_offset(struct sock, __sk_common.skc_v6_rcv_saddr));
	} else {
		detail->remote[0] = read(struct sock, sk, __sk_common.skc_daddr);
		detail->local[0] = read(struct sock, sk, __sk_common.skc_rcv_saddr);
	}
	detail->remote_port = __builtin_bswap16(read(struct sock, sk, __sk_common.skc_dport));
	detail->local_port = read(struct sock, sk, __sk_common.skc_num);
}

#endif
