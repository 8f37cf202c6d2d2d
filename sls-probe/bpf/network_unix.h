/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* UNIX sockets: what is done when they connect, send and listen, and programs of cgroups for what no system call tells of. */
#ifndef SLS_NETWORK_UNIX_H
#define SLS_NETWORK_UNIX_H

/* UNIX sockets that sent to an address, as `sends`. */
#define UNIX_SENDS 1024

/* The longest name and a NUL. */
#define PASSED_BYTES 112

struct unix_send {
	u64 socket;
	u32 pid;
	u32 len;
	u8 name[PASSED_BYTES];
};

struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, UNIX_SENDS);
	MAP_TYPE(key, struct unix_send);
	MAP_TYPE(value, u64);
} unix_sends SEC(".maps");

/* By thread: the UNIX socket with which it is in connect or listen. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, 4096);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, u64);
} pending SEC(".maps");

/* Of UNIX sockets. Programs on tracepoints of system calls do not interrupt each other, and have one slot together. */
enum slot {
	SLOT_SYSCALL = 0,
	SLOT_ACCEPT = 1,
	SLOT_CONNECT = 2,
	SLOT_SEND = 3,
	SLOT_LISTEN = 4,
	SLOTS = 5,
};

SCRATCHES(network_scratch, SLOTS);

WALK(walk_network, network_scratch)

/* Adds the address of a socket. Returns the record's flags, or NO_ADDRESS. */
#define NO_ADDRESS 0xffff

INLINE u16 add_address(struct scratch *s, void *sk, u32 slot)
{
	struct network_detail *detail = (void *)s->tail;
	void *address = read(struct unix_sock, sk, addr);
	void *dentry = read(struct unix_sock, sk, path.dentry);
	u32 len, pos = sizeof(*detail);
	u8 first = 0;
	u16 flags;
	void *name;

	s->pos = pos;
	if (dentry) {
		/* Where the socket's file is, whatever was passed to bind, and whoever looks at it from where. */
		flags = add_raw_path(s, dentry, read(struct unix_sock, sk, path.mnt), FLAG_PATH_CUT, walk_network, slot);
		s->record.path_len = s->pos - pos;
		return flags;
	}
	if (!address)
		return NO_ADDRESS;
	len = read(struct unix_address, address, len);
	len -= SOCKADDR_UN_FAMILY_BYTES + 1;
	opaque(len);
	if (len >= SOCKADDR_UN_PATH_BYTES)
		return NO_ADDRESS;
	name = address + field_offset(struct unix_address, name) + SOCKADDR_UN_FAMILY_BYTES;
	bpf_probe_read_kernel(&first, 1, name);
	if (first)
		/* With the first byte, and without the NUL at the end. */
		detail->flags |= AS_PASSED;
	else
		detail->flags |= ABSTRACT;
	bpf_probe_read_kernel(s->tail + sizeof(*detail), len, first ? name : name + 1);
	s->record.name_len = len;
	s->pos = pos + len;
	return 0;
}

/* `named` is the socket that has the address. */
INLINE void report_unix(u32 slot, u8 kind, void *named)
{
	struct scratch *s = bpf_map_lookup_elem(&network_scratch, &slot);
	struct network_detail *detail;
	u16 flags;

	if (!s)
		return;
	fill_current(&s->record, kind);
	detail = (void *)s->tail;
	*detail = (struct network_detail){ .protocol = PROTOCOL_UNIX, .family = AF_UNIX };
	s->record.detail_len = sizeof(*detail);
	flags = add_address(s, named, slot);
	if (flags != NO_ADDRESS)
		emit(s, kind, flags);
}

INLINE u64 inode_of(void *socket)
{
	void *file = read(struct socket, socket, file);
	void *inode = file ? read(struct file, file, f_inode) : NULL;

	return inode ? read(struct inode, inode, i_ino) : 0;
}

/* A datagram socket connects or sends to `other`. */
INLINE void on_unix_send(void *socket, void *other)
{
	void *peer = read(struct socket, other, sk);
	struct send send = { .socket = (u64)read(struct socket, socket, sk), .peer = { (u64)peer }, .pid = current_pid() };

	/* Unnamed: those of socketpair. */
	if (!wants(RECORD_CONNECT, PROTOCOL_UNIX) || !wants_port(0) || !read(struct unix_sock, peer, addr))
		return;
	/* Memory is used again for other sockets; numbers of inodes are not, for a long time. */
	send.peer[1] = inode_of(socket) << 32 | (u32)inode_of(other);
	if (is_new(&sends, &send))
		report_unix(SLOT_SEND, RECORD_CONNECT, peer);
}

/* `other` listens, and has room. */
INLINE void on_unix_connect(void *other)
{
	if (wants(RECORD_CONNECT, PROTOCOL_UNIX) && wants_port(0))
		report_unix(SLOT_CONNECT, RECORD_CONNECT, other);
}

/* Whether listen will succeed: the conditions of unix_listen(). */
INLINE bool can_listen(void *sk)
{
	u16 type = read(struct sock, sk, sk_type);
	u8 state = read(struct sock, sk, __sk_common.skc_state);

	return family_of(sk) == AF_UNIX && (type == SOCK_STREAM || type == SOCK_SEQPACKET) &&
	       (state == TCP_CLOSE || state == TCP_LISTEN) && read(struct unix_sock, sk, addr);
}

INLINE void on_unix_listen(void *socket)
{
	void *sk = read(struct socket, socket, sk);

	if (wants(RECORD_LISTEN, PROTOCOL_UNIX) && can_listen(sk))
		report_unix(SLOT_LISTEN, RECORD_LISTEN, sk);
}

/* What no system call tells of: connect through io_uring or from a 32-bit program, and datagrams to an address (since Linux
 * 6.7). The address is what was passed, and whether anybody is there is not known yet. */

/* Always of the same length: what the name leaves is its text, which says nothing. */
struct passed_record {
	struct record record;
	struct network_detail detail;
	u8 name[PASSED_BYTES];
};

/* The name, and its length. Abstract ones go without their first NUL. */
INLINE u32 passed_name(struct bpf_sock_addr *ctx, u8 *name, u8 *flags)
{
	struct bpf_sock_addr_kern *kernel = bpf_cast_to_kern_ctx(ctx);
	void *from = kernel->uaddr + SOCKADDR_UN_FAMILY_BYTES;
	u32 len = kernel->uaddrlen - SOCKADDR_UN_FAMILY_BYTES;
	u8 first = 0;
	s64 copied;

	opaque(len);
	if (len == 0 || len > SOCKADDR_UN_PATH_BYTES)
		return 0;
	bpf_probe_read_kernel(&first, 1, from);
	if (first) {
		*flags = AS_PASSED;
		/* There need not be a NUL at its end. */
		copied = bpf_probe_read_kernel_str(name, len + 1, from);
		return copied > 0 ? copied - 1 : 0;
	}
	*flags = ABSTRACT;
	len--;
	bpf_probe_read_kernel(name, len, from + 1);
	return len;
}

INLINE struct passed_record *begin_passed(void)
{
	return reserve_bytes(RECORD_CONNECT, sizeof(struct passed_record));
}

INLINE void commit_passed(struct passed_record *r, u32 len, u8 flags)
{
	fill_current(&r->record, RECORD_CONNECT);
	r->detail = (struct network_detail){ .protocol = PROTOCOL_UNIX, .family = AF_UNIX, .flags = flags };
	r->record.detail_len = sizeof(r->detail);
	r->record.name_len = len;
	r->record.text_len = sizeof(*r) - sizeof(r->record) - sizeof(r->detail) - len;
	r->record.len = sizeof(*r);
	submit(r);
}

SEC("cgroup/connect_unix")
int connect_unix(struct bpf_sock_addr *ctx)
{
	u64 thread = bpf_get_current_task();
	struct passed_record *r;
	u8 flags = 0;
	u32 len;

	if (!wants(RECORD_CONNECT, PROTOCOL_UNIX) || !wants_port(0) || bpf_map_lookup_elem(&pending, &thread))
		return 1;
	r = begin_passed();
	if (!r)
		return 1;
	len = passed_name(ctx, r->name, &flags);
	if (flags)
		commit_passed(r, len, flags);
	else
		bpf_ringbuf_discard(r, BPF_RB_NO_WAKEUP);
	return 1;
}

SEC("cgroup/sendmsg_unix")
int sendmsg_unix(struct bpf_sock_addr *ctx)
{
	struct unix_send send = {};
	struct passed_record *r;
	u8 flags = 0;

	if (!wants(RECORD_CONNECT, PROTOCOL_UNIX) || !wants_port(0))
		return 1;
	send.len = passed_name(ctx, send.name, &flags);
	if (!flags)
		return 1;
	send.socket = bpf_get_socket_cookie(ctx);
	send.pid = current_pid();
	r = is_new(&unix_sends, &send) ? begin_passed() : NULL;
	if (!r)
		return 1;
	__builtin_memcpy(r->name, send.name, sizeof(r->name));
	commit_passed(r, send.len, flags);
	return 1;
}

#endif
