// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Connections that are made and accepted, and sockets that wait for them: TCP, UDP and UNIX.
 *
 * TCP and UDP connections and listening sockets come from programs at the root of the cgroup hierarchy, which every kernel
 * has; what has no such hook, from the functions that ask security modules or from system calls. */
#include "common.h"
#include "regs.h"
#include "syscall.h"
#include "socket.h"
#include "network.h"
#include "network_inet.h"
#include "network_unix.h"

/* A connection gets its descriptor. */
INLINE void on_accepted(u32 slot, void *sk)
{
	u16 family = family_of(sk);
	struct inet_record *r;
	struct network_detail *detail;
	u16 protocol;

	if (family == AF_UNIX) {
		if (wants(RECORD_ACCEPT, PROTOCOL_UNIX))
			report_unix(slot, RECORD_ACCEPT, sk);
		return;
	}
	if ((family != AF_INET && family != AF_INET6) || !wants(RECORD_ACCEPT, PROTOCOL_TCP))
		return;
	protocol = read(struct sock, sk, sk_protocol);
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP)
		return;
	r = begin(RECORD_ACCEPT, PROTOCOL_TCP, family);
	if (!r)
		return;
	detail = &r->detail;
	add_ends(detail, sk, family);
	/* MPTCP of old kernels fills it in later. */
	if (!detail->remote_port)
		detail->flags = REMOTE_UNKNOWN | LOCAL_HOST_UNKNOWN | (detail->local_port ? 0 : LOCAL_PORT_UNKNOWN);
	submit(r);
}

SEC("fentry/security_sock_graft")
int fentry_sock_graft(u64 *ctx)
{
	on_accepted(SLOT_ACCEPT, (void *)ctx[0]);
	return 0;
}

SEC("kprobe/security_sock_graft")
int kprobe_sock_graft(void *ctx)
{
	on_accepted(SLOT_ACCEPT, (void *)argument(ctx, 0));
	return 0;
}

SEC("fentry/security_unix_stream_connect")
int fentry_unix_connect(u64 *ctx)
{
	on_unix_connect((void *)ctx[1]);
	return 0;
}

SEC("kprobe/security_unix_stream_connect")
int kprobe_unix_connect(void *ctx)
{
	on_unix_connect((void *)argument(ctx, 1));
	return 0;
}

SEC("fentry/security_unix_may_send")
int fentry_unix_send(u64 *ctx)
{
	on_unix_send((void *)ctx[0], (void *)ctx[1]);
	return 0;
}

SEC("kprobe/security_unix_may_send")
int kprobe_unix_send(void *ctx)
{
	on_unix_send((void *)argument(ctx, 0), (void *)argument(ctx, 1));
	return 0;
}

SEC("fentry/security_socket_listen")
int fentry_listen(u64 *ctx)
{
	on_unix_listen((void *)ctx[0]);
	return 0;
}

SEC("kprobe/security_socket_listen")
int kprobe_listen(void *ctx)
{
	on_unix_listen((void *)argument(ctx, 0));
	return 0;
}

/* The same from system calls. */

/* The socket behind a descriptor; NULL if it is something else. */
INLINE void *socket_of(u32 fd)
{
	void *file = file_of(fd);
	void *socket = file ? read(struct file, file, private_data) : NULL;

	/* What is no socket does not point back. */
	if (!socket || (void *)read(struct socket, socket, file) != file)
		return NULL;
	return read(struct socket, socket, sk);
}

INLINE int on_accept_exit(void *ctx)
{
	s64 fd = syscall_result(ctx);
	void *sk = fd < 0 ? NULL : socket_of(fd);

	if (sk)
		on_accepted(SLOT_SYSCALL, sk);
	return 0;
}

INLINE int remember(void *ctx, u8 kind)
{
	u64 thread = bpf_get_current_task();
	u64 sk;

	if (!wants(kind, PROTOCOL_UNIX) || (kind == RECORD_CONNECT && !wants_port(0)))
		return 0;
	sk = (u64)socket_of(syscall_argument(ctx, 0));
	if (sk && family_of((void *)sk) == AF_UNIX && bpf_map_update_elem(&pending, &thread, &sk, 0))
		count_loss(kind, LOST_UNTRACKED);
	return 0;
}

/* The socket that was remembered, if the call succeeded. */
INLINE void *remembered(void *ctx)
{
	u64 thread = bpf_get_current_task();
	u64 *pointer = bpf_map_lookup_elem(&pending, &thread);
	void *sk;

	if (!pointer)
		return NULL;
	sk = (void *)*pointer;
	bpf_map_delete_elem(&pending, &thread);
	return syscall_result(ctx) == 0 ? sk : NULL;
}

SEC("tracepoint/syscalls/sys_exit_accept")
int exit_accept(void *ctx)
{
	return on_accept_exit(ctx);
}

SEC("tracepoint/syscalls/sys_exit_accept4")
int exit_accept4(void *ctx)
{
	return on_accept_exit(ctx);
}

SEC("tracepoint/syscalls/sys_enter_connect")
int enter_connect(void *ctx)
{
	return remember(ctx, RECORD_CONNECT);
}

SEC("tracepoint/syscalls/sys_exit_connect")
int exit_connect(void *ctx)
{
	void *sk = remembered(ctx);
	void *peer = sk ? read(struct unix_sock, sk, peer) : NULL;

	/* A connection that was accepted has the address of the socket that listens. */
	if (peer)
		report_unix(SLOT_SYSCALL, RECORD_CONNECT, peer);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_listen")
int enter_listen(void *ctx)
{
	return remember(ctx, RECORD_LISTEN);
}

SEC("tracepoint/syscalls/sys_exit_listen")
int exit_listen(void *ctx)
{
	void *sk = remembered(ctx);

	if (sk)
		report_unix(SLOT_SYSCALL, RECORD_LISTEN, sk);
	return 0;
}
