/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Samples: the first packet of a flow, one packet in SAMPLE_ONE_IN, and packets that a rule refuses
 * leave their headers in a ring buffer.
 */
#pragma once

#include "maps.bpf.h"
#include "parse.h"

/*
 * Where /proc/kallsyms hides addresses, as it does without CAP_SYSLOG, bcc takes this helper for
 * missing and puts bpf_probe_read in its place, which network programs may not call.
 */
#undef bpf_probe_read_kernel

/*
 * Copies the frame's first bytes and zeroes the rest.  Returns how many were copied.  A helper at
 * XDP too, because direct access takes a branch a word, and so many paths exhaust the verifier
 * (6.18).
 */
static __always_inline u32 copy_header(void *ctx, const bool is_xdp, struct packet_event *event)
{
	struct __sk_buff *skb = ctx;
	struct xdp_md *xdp = ctx;
	u64 length = is_xdp ? (u64)xdp->data_end - xdp->data : skb->len;

	if (length > HEADER_BYTES)
		length = HEADER_BYTES;
	__builtin_memset(event->header, 0, sizeof(event->header));
	if (is_xdp)
		bpf_probe_read_kernel(event->header, length, (void *)(long)xdp->data);
	else if (length)
		bpf_skb_load_bytes(skb, 0, event->header, length);
	return length;
}

static __always_inline void fill_event(void *ctx, const bool is_xdp, struct packet_event *event,
				       const struct packet *packet, u8 reason, u32 rule_slot)
{
	event->seen_ns = bpf_ktime_get_ns();
	event->src_addr[0] = packet->key.src_addr[0];
	event->src_addr[1] = packet->key.src_addr[1];
	event->dst_addr[0] = packet->key.dst_addr[0];
	event->dst_addr[1] = packet->key.dst_addr[1];
	event->src_port_be = packet->key.ports_be;
	event->dst_port_be = packet->key.ports_be >> 16;
	event->lane = packet->key.lane;
	event->protocol = packet->key.protocol;
	event->tcp_flags = packet->tcp_flags;
	event->hop_limit = packet->hop_limit;
	event->reason = reason;
	event->bytes = packet->bytes;
	event->packets = packet->segments;
	event->rule_slot = rule_slot;
	event->header_bytes = copy_header(ctx, is_xdp, event);
}

/* Sends the packet's headers to the agent; *rule_slot* is that of a rule that it met, else 0. */
static __always_inline void sample(void *ctx, const bool is_xdp, struct hook_totals *books,
				   const struct packet *packet, u8 reason, u32 rule_slot)
{
#if PERF_BUFFER
	struct packet_event event = {};

	fill_event(ctx, is_xdp, &event, packet, reason, rule_slot);
	if (packets.perf_submit(ctx, &event, sizeof(event)) < 0) {
		books->lost_samples++;
		return;
	}
#else
	struct packet_event *event = packets.ringbuf_reserve(sizeof(*event));

	if (!event) {
		books->lost_samples++;
		return;
	}
	fill_event(ctx, is_xdp, event, packet, reason, rule_slot);
	packets.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
#endif
	books->samples++;
}

/* Whether this packet is the one in SAMPLE_ONE_IN.  Gaps are random, so no rhythm hides. */
static __always_inline bool is_sampled(struct hook_totals *books)
{
#if SAMPLE_ONE_IN
	if (books->sample_countdown) {
		books->sample_countdown--;
		return false;
	}
	books->sample_countdown = bpf_get_prandom_u32() % (2 * SAMPLE_ONE_IN - 1);
	return true;
#else
	return false;
#endif
}
