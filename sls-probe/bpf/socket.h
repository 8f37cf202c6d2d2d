/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Sockets: the kernel's types, and what programs of cgroups get. */
#ifndef SLS_SOCKET_H
#define SLS_SOCKET_H

enum { AF_UNIX = 1, AF_INET = 2, AF_INET6 = 10 };
enum { SOCK_STREAM = 1, SOCK_DGRAM = 2, SOCK_SEQPACKET = 5 };
enum { IPPROTO_TCP = 6, IPPROTO_UDP = 17, IPPROTO_UDPLITE = 136, IPPROTO_MPTCP = 262 };
enum { TCP_CLOSE = 7, TCP_LISTEN = 10 }; /* include/net/tcp_states.h, for UNIX sockets too */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct in6_addr {
	u32 words[4];
};

struct sock_common {
	u32 skc_daddr; /* network byte order */
	u32 skc_rcv_saddr; /* the same */
	u16 skc_dport; /* the same */
	u16 skc_num; /* the socket's own port */
	u16 skc_family;
	u8 skc_state;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct socket {
	struct file *file;
	struct sock *sk;
};

struct sock {
	struct sock_common __sk_common;
	u16 sk_type;
	u16 sk_protocol;
	struct socket *sk_socket;
};

struct sockaddr_un {
	u16 sun_family;
};

struct unix_address {
	int len; /* of the name with its family */
	struct sockaddr_un name[0];
};

struct unix_sock {
	struct unix_address *addr;
	struct path path;
	struct sock *peer;
};

struct bpf_sock_addr_kern {
	void *uaddr;
	u32 uaddrlen;
};

#pragma clang attribute pop

#define SOCKADDR_UN_FAMILY_BYTES 2
#define SOCKADDR_UN_PATH_BYTES 108

/* include/uapi/linux/bpf.h: layouts that the kernel keeps, up to the last member that is used. Loads of other sizes than
 * those of the members are refused, so the pointers to these are volatile. */
struct bpf_sock {
	u32 bound_dev_if;
	u32 family;
	u32 type;
	u32 protocol;
	u32 mark;
	u32 priority;
	u32 src_ip4;
	u32 src_ip6[4];
	u32 src_port; /* host byte order */
};

struct bpf_sock_ops {
	u32 op;
	u32 reply[4]; /* not ours to touch: the kernel acts on it */
	u32 family;
	u32 remote_ip4;
	u32 local_ip4;
	u32 remote_ip6[4];
	u32 local_ip6[4];
	u32 remote_port; /* network byte order */
	u32 local_port; /* host byte order */
};

enum { BPF_SOCK_OPS_TCP_CONNECT_CB = 3, BPF_SOCK_OPS_TCP_LISTEN_CB = 11 };

struct bpf_sock_addr {
	u32 user_family;
	u32 user_ip4;
	u32 user_ip6[4];
	u32 user_port; /* network byte order, 16 bits */
	u32 family;
	u32 type;
	u32 protocol;
	u32 msg_src_ip4;
	u32 msg_src_ip6[4];
	struct bpf_sock *sk __attribute__((aligned(8)));
};

_Static_assert(sizeof(struct bpf_sock) == 48 && sizeof(struct bpf_sock_ops) == 72, "as in the kernel");
_Static_assert(__builtin_offsetof(struct bpf_sock_addr, sk) == 64, "as in the kernel");

/* Since Linux 6.2; what it gives has no layout that the kernel keeps. */
extern void *bpf_cast_to_kern_ctx(void *ctx) __attribute__((section(".ksyms"), weak));

static u64 (*bpf_get_socket_cookie)(void *ctx) = (void *)46;

#endif
