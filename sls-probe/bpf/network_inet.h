/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* TCP and UDP: programs at the root of the cgroup hierarchy. */
#ifndef SLS_NETWORK_INET_H
#define SLS_NETWORK_INET_H

/* By thread: the port that it is about to bind a UDP socket to. One that is never taken out makes room by itself. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, 1024);
	MAP_TYPE(key, u64);
	MAP_TYPE(value, u32);
} binding SEC(".maps");

INLINE void copy_words(u32 *to, const volatile u32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

/* TCP: the process calls connect, or sends for the first time where the connection was put off until then, and the local
 * port is chosen; or it calls listen. Both also through io_uring. */

INLINE void on_tcp(volatile struct bpf_sock_ops *ctx, u8 kind)
{
	u32 family = ctx->family;
	u16 remote_port = kind == RECORD_CONNECT ? __builtin_bswap32(ctx->remote_port) : 0;
	struct inet_record *r;

	if (!wants(kind, PROTOCOL_TCP) || (kind == RECORD_CONNECT && !wants_port(remote_port)))
		return;
	r = begin(kind, PROTOCOL_TCP, family);
	if (!r)
		return;
	if (family == AF_INET6) {
		copy_words(r->detail.remote, ctx->remote_ip6);
		copy_words(r->detail.local, ctx->local_ip6);
	} else {
		r->detail.remote[0] = ctx->remote_ip4;
		r->detail.local[0] = ctx->local_ip4;
	}
	r->detail.remote_port = remote_port;
	r->detail.local_port = ctx->local_port;
	submit(r);
}

SEC("sockops")
int tcp_connect(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		on_tcp(ctx, RECORD_CONNECT);
	return 1;
}

SEC("sockops")
int tcp_listen(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_LISTEN_CB)
		on_tcp(ctx, RECORD_LISTEN);
	return 1;
}

/* UDP: connect, and sendto and sendmsg with an address. */

INLINE bool is_udp_protocol(u32 protocol)
{
	return protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE;
}

INLINE bool is_udp(volatile struct bpf_sock_addr *ctx)
{
	return is_udp_protocol(ctx->protocol);
}

INLINE u16 user_port(volatile struct bpf_sock_addr *ctx)
{
	return __builtin_bswap16(ctx->user_port);
}

INLINE bool wants_udp_connect(volatile struct bpf_sock_addr *ctx)
{
	return is_udp(ctx) && wants(RECORD_CONNECT, PROTOCOL_UDP) && wants_port(user_port(ctx));
}

/* What the kernel fills in later is zero. */
INLINE void finish_udp(struct inet_record *r, volatile struct bpf_sock_addr *ctx)
{
	struct network_detail *detail = &r->detail;
	volatile struct bpf_sock *sk = ctx->sk;

	detail->remote_port = user_port(ctx);
	detail->local_port = sk->src_port;
	if (!(detail->local[0] | detail->local[1] | detail->local[2] | detail->local[3]))
		detail->flags |= LOCAL_HOST_UNKNOWN;
	if (!detail->local_port)
		detail->flags |= LOCAL_PORT_UNKNOWN;
	submit(r);
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	struct inet_record *r;

	if (!wants_udp_connect(ctx))
		return 1;
	r = begin(RECORD_CONNECT, PROTOCOL_UDP, AF_INET);
	if (!r)
		return 1;
	r->detail.remote[0] = ctx->user_ip4;
	r->detail.local[0] = ((volatile struct bpf_sock *)ctx->sk)->src_ip4;
	finish_udp(r, ctx);
	return 1;
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	struct inet_record *r;

	if (!wants_udp_connect(ctx))
		return 1;
	r = begin(RECORD_CONNECT, PROTOCOL_UDP, AF_INET6);
	if (!r)
		return 1;
	copy_words(r->detail.remote, ctx->user_ip6);
	copy_words(r->detail.local, ctx->sk->src_ip6);
	finish_udp(r, ctx);
	return 1;
}

INLINE bool is_new_send(struct bpf_sock_addr *ctx, const u32 *address)
{
	struct send send = { .socket = bpf_get_socket_cookie(ctx), .port = user_port(ctx), .pid = current_pid() };

	send.peer[0] = (u64)address[0] << 32 | address[1];
	send.peer[1] = (u64)address[2] << 32 | address[3];
	return is_new(&sends, &send);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	u32 address[4] = { ((volatile struct bpf_sock_addr *)ctx)->user_ip4 };
	struct inet_record *r;

	/* Without a port: to the address that the socket is connected to, which was reported then. */
	if (!user_port(ctx) || !wants_udp_connect(ctx) || !is_new_send(ctx, address))
		return 1;
	r = begin(RECORD_CONNECT, PROTOCOL_UDP, AF_INET);
	if (!r)
		return 1;
	r->detail.remote[0] = address[0];
	r->detail.local[0] = ((volatile struct bpf_sock_addr *)ctx)->msg_src_ip4;
	finish_udp(r, ctx);
	return 1;
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	u32 address[4];
	struct inet_record *r;

	copy_words(address, ctx->user_ip6);
	if (!user_port(ctx) || !wants_udp_connect(ctx) || !is_new_send(ctx, address))
		return 1;
	r = begin(RECORD_CONNECT, PROTOCOL_UDP, AF_INET6);
	if (!r)
		return 1;
	copy_words(r->detail.remote, address);
	copy_words(r->detail.local, ctx->msg_src_ip6);
	finish_udp(r, ctx);
	return 1;
}

/* With trampolines, connect is seen when all is chosen. */
INLINE void on_udp_connected(void *sk, u16 family, int result)
{
	u32 remote_port = __builtin_bswap16(read(struct sock, sk, __sk_common.skc_dport));
	struct inet_record *r;

	/* An IPv6 socket that connects to an IPv4 address comes by both functions. */
	if (result || family_of(sk) != family || !is_udp_protocol(read(struct sock, sk, sk_protocol)))
		return;
	if (!wants(RECORD_CONNECT, PROTOCOL_UDP) || !wants_port(remote_port))
		return;
	r = begin(RECORD_CONNECT, PROTOCOL_UDP, family);
	if (!r)
		return;
	add_ends(&r->detail, sk, family);
	submit(r);
}

SEC("fexit/__ip4_datagram_connect")
int fexit_connect4(u64 *ctx)
{
	on_udp_connected((void *)ctx[0], AF_INET, ctx[3]);
	return 0;
}

SEC("fexit/__ip6_datagram_connect")
int fexit_connect6(u64 *ctx)
{
	on_udp_connected((void *)ctx[0], AF_INET6, ctx[3]);
	return 0;
}

/* A UDP socket has no listen: it is bound to a port. That a port was named is seen before, that it was had afterwards. */

INLINE int on_bind(volatile struct bpf_sock_addr *ctx)
{
	u64 thread = bpf_get_current_task();
	u32 port = user_port(ctx);

	if (!is_udp(ctx) || !wants(RECORD_LISTEN, PROTOCOL_UDP))
		return 1;
	if (port)
		bpf_map_update_elem(&binding, &thread, &port, 0);
	else
		bpf_map_delete_elem(&binding, &thread);
	return 1;
}

INLINE struct inet_record *begin_bound(volatile struct bpf_sock *ctx, u16 family)
{
	u64 thread;
	u32 *port;
	struct inet_record *r;

	if (!is_udp_protocol(ctx->protocol))
		return NULL;
	thread = bpf_get_current_task();
	port = bpf_map_lookup_elem(&binding, &thread);
	if (!port || *port != ctx->src_port)
		return NULL;
	bpf_map_delete_elem(&binding, &thread);
	r = begin(RECORD_LISTEN, PROTOCOL_UDP, family);
	if (r)
		r->detail.local_port = ctx->src_port;
	return r;
}

SEC("cgroup/bind4")
int bind4(struct bpf_sock_addr *ctx)
{
	return on_bind(ctx);
}

SEC("cgroup/bind6")
int bind6(struct bpf_sock_addr *ctx)
{
	return on_bind(ctx);
}

SEC("cgroup/post_bind4")
int bound4(struct bpf_sock *ctx)
{
	struct inet_record *r = begin_bound(ctx, AF_INET);

	if (!r)
		return 1;
	r->detail.local[0] = ((volatile struct bpf_sock *)ctx)->src_ip4;
	submit(r);
	return 1;
}

SEC("cgroup/post_bind6")
int bound6(struct bpf_sock *ctx)
{
	struct inet_record *r = begin_bound(ctx, AF_INET6);

	if (!r)
		return 1;
	copy_words(r->detail.local, ctx->src_ip6);
	submit(r);
	return 1;
}

#endif
