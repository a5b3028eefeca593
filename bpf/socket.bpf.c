/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Report who opens a socket, how well its connection goes, and how it ends.
 *
 *  1. Where a process asks for something (connect, bind, accept, the first datagram, close), note
 *     which process that is, with the socket.  Nowhere else: packets arrive in softirqs, while any
 *     process may happen to run.
 *  2. The kernel calls hook_tcp as a connection is established, changes its state, retransmits, or
 *     has a packet acknowledged.  tcp.bpf.h turns that into events; for a packet it only looks
 *     whether an interval has passed since the last event.
 *  3. An accepted socket starts with its listener's process.  The one that accepts it asks for the
 *     peer's address in nearly all cases, which hook_peer4 and hook_peer6 see; else it is known
 *     when it is closed.
 *  4. A UDP socket is reported as soon as its process and port are known, and when it is closed.
 *     Later datagrams cost one look at the socket.
 *
 * The programs are attached to a cgroup, see nothing of other cgroups, and never change what the
 * kernel or another program decides.  Stored state of a socket, which they need from bind to close,
 * came with Linux v5.13.
 *
 * The loader compiles the configuration in: CPUS, RING_PAGES, PERF_BUFFER, and UPDATE_TICKS, the
 * jiffies of an interval.
 */
#define AF_INET	    2
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define ALLOW	    1

#include "events.h"
#include "socket.bpf.h"
#include "tcp.bpf.h"

static __always_inline void fill_from_socket(struct socket_event *event, struct bpf_sock *sk)
{
	event->protocol = sk->protocol;
	event->local_port = sk->src_port;
	event->remote_port = __builtin_bswap16(sk->dst_port);
	if (sk->family == AF_INET) {
		map_ipv4(event->local_addr, sk->src_ip4);
		map_ipv4(event->remote_addr, sk->dst_ip4);
	} else {
		copy_ipv6(event->local_addr, sk->src_ip6);
		copy_ipv6(event->remote_addr, sk->dst_ip6);
	}
}

/* Reports a UDP socket with a port, and remembers what cannot be read when it is closed. */
static __always_inline void announce(void *ctx, struct socket_event *event,
				     struct socket_state *state)
{
	state->local_addr[0] = event->local_addr[0];
	state->local_addr[1] = event->local_addr[1];
	state->local_port = event->local_port;
	state->start_ns = bpf_ktime_get_ns();
	state->notes |= NOTE_ANNOUNCED;
	report(ctx, event, state, EVENT_OPEN);
}

static __always_inline void is_connected_by(struct bpf_sock_addr *ctx)
{
	struct socket_state *state;

	if (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP)
		return;
	state = state_of(ctx->sk);
	/* A UDP socket may be connected again and again, and has its port only after the first. */
	if (!state || state->notes & NOTE_ANNOUNCED)
		return;
	take_owner(ctx, state);
	state->role = ROLE_CLIENT;
	/* TCP connects right after this, and reads the clock then. */
	if (ctx->protocol == IPPROTO_UDP)
		state->start_ns = bpf_ktime_get_ns();
}

static __always_inline void is_used_by(struct bpf_sock_addr *ctx, u8 role)
{
	struct socket_event event = {};
	struct bpf_sock *sk = ctx->sk;
	struct socket_state *state;

	if (!sk)
		return;
	state = known_state(sk);
	if (state && state->notes & NOTE_ANNOUNCED)
		return;
	state = state_of(sk);
	if (!state)
		return;
	if (!state->pid)
		take_owner(ctx, state);
	if (!state->role)
		state->role = role;
	fill_from_socket(&event, sk);
	announce(ctx, &event, state);
}

static __always_inline void is_bound_by(struct bpf_sock *ctx, struct socket_event *event)
{
	struct socket_state *state;

	if (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP)
		return;
	state = socket_states.sk_storage_get(ctx, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state) {
		count_event(true);
		return;
	}
	take_owner(ctx, state);
	if (ctx->protocol != IPPROTO_UDP)
		return;
	state->role = ROLE_SERVER;
	event->protocol = IPPROTO_UDP;
	event->local_port = ctx->src_port;
	announce(ctx, event, state);
}

static __always_inline void is_accepted_by(struct bpf_sock_addr *ctx)
{
	struct socket_event event = {};
	struct bpf_sock *sk = ctx->sk;
	struct socket_state *state = known_state(sk);

	if (!sk || !state || state->role != ROLE_SERVER || state->notes & NOTE_ACCEPTED ||
	    ctx->protocol != IPPROTO_TCP)
		return;
	state->notes |= NOTE_ACCEPTED;
	if (state->pid == bpf_get_current_pid_tgid() >> 32)
		return;
	take_owner(ctx, state);
	fill_from_socket(&event, sk);
	report(ctx, &event, state, EVENT_ACCEPT);
}

/* Where a file is closed by nobody in particular, the kernel does it in a thread of its own. */
static __always_inline bool runs_in_kernel_thread(void)
{
	u64 command[2] = {};

	bpf_get_current_comm(command, sizeof(command));
	return command[0] == *(const u64 *)"kworker/";
}

int hook_tcp(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_RTT_CB:
		moves(ctx, false);
		break;
	case BPF_SOCK_OPS_RETRANS_CB:
		moves(ctx, true);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		changes(ctx, ctx->args[0], ctx->args[1]);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		connects(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		is_established(ctx);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		listens(ctx);
		break;
	}
	return ALLOW;
}

int hook_release(struct bpf_sock *ctx)
{
	struct socket_state *state = socket_states.sk_storage_get(ctx, NULL, 0);
	struct socket_event event = {.protocol = IPPROTO_UDP};

	if (!state)
		return ALLOW;
	if (ctx->protocol == IPPROTO_TCP) {
		state->notes |= NOTE_RELEASED;
		if (state->role == ROLE_SERVER && !runs_in_kernel_thread())
			take_owner(ctx, state);
		return ALLOW;
	}
	/* Who resolves a name connects sockets only to learn which address would be used. */
	if (!(state->notes & NOTE_ANNOUNCED) && !ctx->dst_port)
		return ALLOW;
	event.local_port = state->local_port;
	event.remote_port = __builtin_bswap16(ctx->dst_port);
	if (ctx->family == AF_INET) {
		map_ipv4(event.local_addr, 0);
		map_ipv4(event.remote_addr, ctx->dst_ip4);
	} else {
		copy_ipv6(event.remote_addr, ctx->dst_ip6);
	}
	if (state->notes & NOTE_ANNOUNCED) {
		event.local_addr[0] = state->local_addr[0];
		event.local_addr[1] = state->local_addr[1];
	}
	report(ctx, &event, state, EVENT_CLOSE);
	return ALLOW;
}

int hook_bound4(struct bpf_sock *ctx)
{
	struct socket_event event = {};

	map_ipv4(event.local_addr, ctx->src_ip4);
	map_ipv4(event.remote_addr, 0);
	is_bound_by(ctx, &event);
	return ALLOW;
}

int hook_bound6(struct bpf_sock *ctx)
{
	struct socket_event event = {};

	copy_ipv6(event.local_addr, ctx->src_ip6);
	is_bound_by(ctx, &event);
	return ALLOW;
}

/* One program for each attach type, by which the verifier knows it. */
int hook_connect4(struct bpf_sock_addr *ctx)
{
	is_connected_by(ctx);
	return ALLOW;
}

int hook_connect6(struct bpf_sock_addr *ctx)
{
	is_connected_by(ctx);
	return ALLOW;
}

int hook_send4(struct bpf_sock_addr *ctx)
{
	is_used_by(ctx, ROLE_CLIENT);
	return ALLOW;
}

int hook_send6(struct bpf_sock_addr *ctx)
{
	is_used_by(ctx, ROLE_CLIENT);
	return ALLOW;
}

int hook_receive4(struct bpf_sock_addr *ctx)
{
	is_used_by(ctx, ROLE_SERVER);
	return ALLOW;
}

int hook_receive6(struct bpf_sock_addr *ctx)
{
	is_used_by(ctx, ROLE_SERVER);
	return ALLOW;
}

int hook_peer4(struct bpf_sock_addr *ctx)
{
	is_accepted_by(ctx);
	return ALLOW;
}

int hook_peer6(struct bpf_sock_addr *ctx)
{
	is_accepted_by(ctx);
	return ALLOW;
}
