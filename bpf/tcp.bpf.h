/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* A TCP connection from its first SYN to its end, as the kernel calls us for it. */
#pragma once

#include "socket.bpf.h"

/* Round trips are not asked for earlier than needed: the answer to a SYN is one. */
#define CALLED_WHEN_STATE_CHANGES BPF_SOCK_OPS_STATE_CB_FLAG
#define CALLED_WHILE_CONNECTING	  (CALLED_WHEN_STATE_CHANGES | BPF_SOCK_OPS_RETRANS_CB_FLAG)
#define CALLED_FOR_CONNECTION	  (CALLED_WHILE_CONNECTING | BPF_SOCK_OPS_RTT_CB_FLAG)

/* Others may have asked for more: we only add. */
static __always_inline void ask_for(struct bpf_sock_ops *ctx, int flags)
{
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | flags);
}

static __always_inline bool is_all_acknowledged(struct bpf_sock_ops *ctx)
{
	return ctx->snd_una == ctx->snd_nxt;
}

/* The kernel counts an acknowledged SYN or FIN as a byte. */
static __always_inline u64 payload_sent(struct bpf_sock_ops *ctx, struct socket_state *state)
{
	u64 control = state->role == ROLE_CLIENT;

	if (state->notes & NOTE_FIN_SENT && is_all_acknowledged(ctx))
		control++;
	return ctx->bytes_acked > control ? ctx->bytes_acked - control : 0;
}

static __always_inline u64 payload_received(struct bpf_sock_ops *ctx, struct socket_state *state)
{
	u64 control = state->notes & NOTE_FIN_RECEIVED ? 1 : 0;

	return ctx->bytes_received > control ? ctx->bytes_received - control : 0;
}

static __always_inline void fill_addresses(struct bpf_sock_ops *ctx, struct socket_event *event)
{
	if (ctx->family == AF_INET) {
		map_ipv4(event->local_addr, ctx->local_ip4);
		map_ipv4(event->remote_addr, ctx->remote_ip4);
	} else {
		copy_ipv6(event->local_addr, ctx->local_ip6);
		copy_ipv6(event->remote_addr, ctx->remote_ip6);
	}
	event->local_port = ctx->local_port;
	event->remote_port = __builtin_bswap32(ctx->remote_port);
}

static __always_inline void report_tcp(struct bpf_sock_ops *ctx, struct socket_state *state,
				       u8 kind, u8 ending)
{
	struct socket_event event = {.protocol = IPPROTO_TCP, .close_reason = ending};

	fill_addresses(ctx, &event);
	event.srtt_us = ctx->srtt_us >> 3;
	/* All ones until there is a sample. */
	event.min_rtt_us = ctx->rtt_min == ~0U ? 0 : ctx->rtt_min;
	event.retransmits = ctx->total_retrans;
	event.bytes_sent = payload_sent(ctx, state);
	event.bytes_received = payload_received(ctx, state);
	event.segments_sent = ctx->segs_out;
	event.segments_received = ctx->segs_in;
	event.cwnd = ctx->snd_cwnd;
	state->reported_jiffies = bpf_jiffies64();
	report(ctx, &event, state, kind);
}

static __always_inline void listens(struct bpf_sock_ops *ctx)
{
	struct socket_state *state = state_of(ctx->sk);

	if (!state)
		return;
	state->role = ROLE_LISTENER;
	state->start_ns = bpf_ktime_get_ns();
	state->notes = 0;
	ask_for(ctx, CALLED_WHEN_STATE_CHANGES);
	report_tcp(ctx, state, EVENT_LISTEN, ENDING_NONE);
}

static __always_inline void connects(struct bpf_sock_ops *ctx)
{
	struct socket_state *state = state_of(ctx->sk);

	if (!state)
		return;
	state->role = ROLE_CLIENT;
	state->connect_ns = state->start_ns = bpf_ktime_get_ns();
	state->handshake_ns = 0;
	state->ending = ENDING_NONE;
	state->notes = NOTE_CONNECTING;
	ask_for(ctx, CALLED_WHILE_CONNECTING);
}

static __always_inline void is_established(struct bpf_sock_ops *ctx)
{
	struct socket_state *state = state_of(ctx->sk);

	if (!state)
		return;
	state->start_ns = bpf_ktime_get_ns();
	if (state->notes & NOTE_CONNECTING) {
		state->handshake_ns = state->start_ns - state->connect_ns;
	} else {
		/* The rest of it is the listener's. */
		state->role = ROLE_SERVER;
		state->handshake_ns = (ctx->srtt_us >> 3) * 1000ULL;
		state->ending = ENDING_NONE;
		state->notes = 0;
	}
	state->notes |= NOTE_ESTABLISHED;
	ask_for(ctx, CALLED_FOR_CONNECTION);
	report_tcp(ctx, state, EVENT_OPEN, ENDING_NONE);
}

/* The peer has acknowledged something, or has failed to. */
static __always_inline void moves(struct bpf_sock_ops *ctx, bool is_retransmission)
{
	struct socket_state *state = known_state(ctx->sk);

	if (!state)
		return;
	if (is_retransmission) {
		state->notes |= NOTE_RETRANSMITTED;
		state->segments_at_retransmit = ctx->segs_in;
	}
	if (state->notes & NOTE_ESTABLISHED &&
	    (u32)bpf_jiffies64() - state->reported_jiffies >= UPDATE_TICKS)
		report_tcp(ctx, state, EVENT_UPDATE, ENDING_NONE);
}

/* Why a connection has ended, or an attempt failed, in the state that it leaves. */
static __always_inline u8 ending_of(struct bpf_sock_ops *ctx, const struct socket_state *state,
				    u32 left)
{
	if (left == BPF_TCP_FIN_WAIT2 || left == BPF_TCP_CLOSING ||
	    (left == BPF_TCP_LAST_ACK && is_all_acknowledged(ctx)))
		return state->ending;
	/* Closed with data unread, or without lingering: that sends a reset at once. */
	if (state->notes & NOTE_RELEASED && !(state->notes & NOTE_FIN_SENT))
		return ENDING_ABORTED;
	/* A reset is a segment received, like any other. */
	if (state->notes & NOTE_RETRANSMITTED && ctx->segs_in == state->segments_at_retransmit)
		return ENDING_TIMEOUT;
	return ctx->segs_in ? ENDING_RESET : ENDING_FAILED;
}

static __always_inline void ends(struct bpf_sock_ops *ctx, struct socket_state *state, u32 left)
{
	/* Our FIN's acknowledgement leads to this state; all that came later ended with a FIN. */
	if (left == BPF_TCP_FIN_WAIT2 && ctx->bytes_received != state->bytes_at_fin)
		state->notes |= NOTE_FIN_RECEIVED;
	if (left == BPF_TCP_LISTEN)
		report_tcp(ctx, state, EVENT_CLOSE, ENDING_NONE);
	else if (state->notes & NOTE_ESTABLISHED)
		report_tcp(ctx, state, EVENT_CLOSE, ending_of(ctx, state, left));
	else if (state->notes & NOTE_CONNECTING)
		report_tcp(ctx, state, EVENT_FAIL, ending_of(ctx, state, left));
	state->notes = 0;
}

static __always_inline void changes(struct bpf_sock_ops *ctx, u32 left, u32 entered)
{
	struct socket_state *state = known_state(ctx->sk);

	if (!state)
		return;
	switch (entered) {
	case BPF_TCP_FIN_WAIT1:
		state->ending = ENDING_LOCAL;
		state->notes |= NOTE_FIN_SENT;
		break;
	case BPF_TCP_FIN_WAIT2:
		state->bytes_at_fin = ctx->bytes_received;
		break;
	case BPF_TCP_CLOSE_WAIT:
		state->ending = ENDING_REMOTE;
		state->notes |= NOTE_FIN_RECEIVED;
		break;
	case BPF_TCP_CLOSING:
		state->notes |= NOTE_FIN_RECEIVED;
		break;
	case BPF_TCP_LAST_ACK:
		state->notes |= NOTE_FIN_SENT;
		break;
	case BPF_TCP_CLOSE:
		ends(ctx, state, left);
		break;
	}
}
