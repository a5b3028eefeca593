/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Names on the wire: which packets carry DNS messages or TLS ClientHellos.
 *
 * Every packet is looked at here once it has been booked, so this is short.  A packet that carries
 * something goes on in a program of its own, which copies it out: what it does would multiply with
 * all paths through the parser, and be walked by the verifier each time.
 */
#pragma once

#include "book.bpf.h"
#include "dns.bpf.h"
#include "tls.bpf.h"

#if NAMES
/* Key: CPU.  The packet that goes on.  Programs of one CPU do not interrupt each other. */
BPF_TABLE_PINNED("array", u32, struct packet, named_packets, CPUS, PRIVATE("named_packets"));

static __always_inline bool carries_names(void *ctx, const bool is_xdp, const struct packet *packet)
{
#if DNS
	if (is_dns(packet))
		return true;
#endif
#if TLS
	return is_hello(ctx, is_xdp, packet);
#endif
	return false;
}

/* Sends the packet on where it carries names; does not come back then. */
static __always_inline void name_packet(void *ctx, const bool is_xdp, const struct packet *packet,
					u64 cpu)
{
	struct packet *named;
	u32 index = cpu;

	if (packet->payload_end <= packet->header_bytes || !carries_names(ctx, is_xdp, packet))
		return;
	named = named_packets.lookup(&index);
	if (!named)
		return;
	*named = *packet;
	if (is_xdp)
		xdp_tails.call(ctx, TAIL_XDP_NAMES);
	else
		tc_tails.call(ctx, TAIL_TC_NAMES);
}

/* The rest of it, in the program that it was sent on to. */
static __always_inline void copy_names(void *ctx, const bool is_xdp, u64 bytes, u64 segment_bytes)
{
	u32 index = bpf_get_smp_processor_id();
	struct packet *packet = named_packets.lookup(&index);
	struct hook_totals *books;

	if (!packet)
		return;
	books = books_at(index, packet->key.lane >> LANE_POINT_SHIFT & LANE_POINT_MASK);
	if (!books)
		return;
	/* A frame may end before what its headers promise. */
	if (packet->payload_end > bytes)
		packet->payload_end = bytes;
	if (packet->payload_end <= packet->header_bytes)
		return;
#if DNS
	if (is_dns(packet)) {
		copy_dns(ctx, is_xdp, books, packet, segment_bytes);
		return;
	}
#endif
#if TLS
	copy_hello(ctx, is_xdp, books, packet);
#endif
}
#else
static __always_inline void name_packet(void *ctx, const bool is_xdp, const struct packet *packet,
					u64 cpu)
{
}
#endif
