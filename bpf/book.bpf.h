/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Book a packet that was read: in the totals of its hook point, in the flow cache, and as a sample
 * where it is one.
 */
#pragma once

#include "cache.bpf.h"
#include "maps.bpf.h"
#include "sample.bpf.h"

/* The books of a hook point on this CPU. */
static __always_inline struct hook_totals *books_at(u64 cpu, u64 point)
{
	u32 index = cpu * HOOK_POINTS + point;

	return totals.lookup(&index);
}

/*
 * A super-packet leaves, or arrived, as several segments, each with the same headers.  Count what
 * the wire carries.  The kernel knows how many they are, unless a guest's kernel made the packet.
 */
static __always_inline void count_segments(struct packet *packet, u64 segment_bytes,
					   u32 segment_count)
{
	u64 header_bytes = packet->tag_bytes + packet->header_bytes;
	u64 payload_bytes;

	if (!segment_bytes || packet->bytes <= header_bytes)
		return;
	payload_bytes = packet->bytes - header_bytes;
	packet->segments = segment_count ?: (payload_bytes + segment_bytes - 1) / segment_bytes;
	packet->bytes += (packet->segments - 1) * header_bytes;
	packet->max_bytes = header_bytes + segment_bytes;
	packet->min_bytes = packet->bytes - (packet->segments - 1) * packet->max_bytes;
}

/*
 * What a wire carries and an interface may not count: all but one segment of a super-packet, headers
 * that each of them repeats, and a tag that is kept beside the packet.
 */
static __always_inline u64 extra_bytes_of(const struct packet *packet)
{
	return (packet->segments - 1) * (packet->tag_bytes + packet->header_bytes) +
	       packet->tag_bytes;
}

static __always_inline void count_extra(struct hook_totals *books, const struct packet *packet)
{
	u64 more = packet->segments - 1;

	if (!(more | packet->tag_bytes))
		return;
	books->extra_packets += more;
	books->extra_bytes += extra_bytes_of(packet);
}

/* Books one packet; its lane lacks only the hook point. */
static __always_inline void book(void *ctx, const bool is_xdp, struct hook_totals *books,
				 struct packet *packet, u64 cpu, u64 point)
{
	bool is_new;

	books->seen_packets += packet->segments;
	books->seen_bytes += packet->bytes;
	count_extra(books, packet);
	if (packet->is_truncated)
		books->truncated_packets += packet->segments;
	packet->key.lane |= point << LANE_POINT_SHIFT;
	is_new = account(ctx, packet, cpu);
	if (is_new)
		books->new_flows++;
	if (is_new && SAMPLE_FIRST)
		sample(ctx, is_xdp, books, packet, REASON_FIRST, 0);
	else if (is_sampled(books))
		sample(ctx, is_xdp, books, packet, REASON_SAMPLED, 0);
}
