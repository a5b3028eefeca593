/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Book the packets that are not plain ones: dissect them from the beginning, and give each row
 * what surrounds its packet.
 *
 * TUNNELS says which packet of a tunnel a row tells of: the inner, the outer, or both.  With both,
 * the outer one counts, and the inner one is a copy, which the agent keeps apart.
 */
#pragma once

#include "book.bpf.h"
#include "contexts.bpf.h"
#include "dissect.bpf.h"
#include "frame.h"
#include "names.bpf.h"
#include "rules.bpf.h"
#if CAPTURES
#include "capture.bpf.h"
#endif

static __always_inline void copy_counts(struct packet *to, const struct packet *from)
{
	to->bytes = from->bytes;
	to->segments = from->segments;
	to->min_bytes = from->min_bytes;
	to->max_bytes = from->max_bytes;
	if (TUNNELS != TUNNELS_OUTER)
		to->is_truncated = from->is_truncated;
}

/* Gives the packet its lane.  Returns false where there was no room for what surrounds it. */
static __always_inline bool place(struct packet *packet, const struct dissection *d, u64 is_inside,
				  u64 is_copy, u64 cpu)
{
	struct flow_context context;

	if (is_inside || d->inner_vlan) {
		fill_context(&context, packet, d, is_inside);
		context.is_copy = is_copy;
		if (set_context(packet, &context, cpu))
			return true;
	}
	packet->key.lane |= d->vlan << LANE_VLAN_SHIFT;
	return !is_inside && !d->inner_vlan;
}

/* Returns the lane that the packet has where its flow's has the number of a context. */
static __always_inline u64 book_one(void *ctx, const bool is_xdp, struct dissection *d,
				    struct hook_totals *books, u64 cpu)
{
	u64 is_inside = d->tunnel && TUNNELS == TUNNELS_INNER;
	u64 place_bits = d->vlan << LANE_VLAN_SHIFT | d->point << LANE_POINT_SHIFT;
	u64 lane;

	if (d->tunnel && !is_inside) {
		copy_counts(&d->outer, &d->packet);
		d->inner = d->packet;
		d->packet = d->outer;
	}
	lane = d->packet.key.lane | place_bits;
	if (!place(&d->packet, d, is_inside, 0, cpu)) {
		books->context_overflow_packets += d->packet.segments;
		if (is_inside) {
			copy_counts(&d->outer, &d->packet);
			d->packet = d->outer;
			d->packet.key.lane |= d->vlan << LANE_VLAN_SHIFT;
			lane = d->packet.key.lane | place_bits;
		}
	}
	book(ctx, is_xdp, books, &d->packet, cpu, d->point);
	return lane;
}

/* What is counted outside already; where it finds no room, only its detail is missing. */
static __always_inline void book_copy(void *ctx, struct dissection *d, struct hook_totals *books,
				      u64 cpu)
{
	if (!place(&d->inner, d, 1, 1, cpu)) {
		books->context_overflow_packets += d->inner.segments;
		return;
	}
	d->inner.key.lane |= d->point << LANE_POINT_SHIFT;
	if (account(ctx, &d->inner, cpu))
		books->new_flows++;
}

static __always_inline void begin(struct dissection *d, const struct frame *frame)
{
	__builtin_memset(d, 0, sizeof(*d));
	d->point = frame->point;
	d->end = frame->bytes;
	d->vlan = frame->aside_vlan;
	d->named_tags = frame->has_aside_tag;
	d->is_super = frame->segment_bytes != 0;
	d->layer = frame->link_bytes ? LAYER_ETHERNET : LAYER_BARE;
	d->packet.segments = 1;
	d->packet.tag_bytes = frame->has_aside_tag * VLAN_TAG_BYTES;
	d->packet.bytes = frame->wire_bytes + d->packet.tag_bytes;
	d->packet.min_bytes = d->packet.max_bytes = d->packet.bytes;
}

/* Takes up the frame with which a hook went on here. */
static __always_inline void account_unusual(void *ctx, const bool is_xdp)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct dissection *d = dissections.lookup(&cpu);
	struct frame *frame = frames.lookup(&cpu);
	struct hook_totals *books;
	u64 lane;

	if (!d || !frame)
		return;
	books = books_at(cpu, frame->point);
	if (!books)
		return;
	begin(d, frame);
	dissect(ctx, is_xdp, d);
	count_segments(&d->packet, frame->segment_bytes, frame->segments);
	if (TUNNELS == TUNNELS_OUTER && d->tunnel)
		d->is_later_fragment = d->is_unmatched = 0;
	if (d->is_later_fragment)
		books->fragment_packets += d->packet.segments;
	if (d->is_unmatched)
		books->unmatched_fragment_packets += d->packet.segments;
	if (d->tunnel)
		books->tunnel_packets += d->packet.segments;
#if CAPTURES
	capture_unusual(ctx, is_xdp, frame, d);
#endif
	lane = book_one(ctx, is_xdp, d, books, cpu);
#if TUNNELS == TUNNELS_BOTH
	if (d->tunnel)
		book_copy(ctx, d, books, cpu);
#endif
	judge_apart(ctx, is_xdp, &d->packet, lane, cpu);
#if TUNNELS == TUNNELS_BOTH
	if (d->tunnel) {
		name_packet(ctx, is_xdp, &d->inner, cpu);
		return;
	}
#endif
	name_packet(ctx, is_xdp, &d->packet, cpu);
}
