/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Book a packet that was read: in the totals of its hook point, in the flow cache, and as a sample
 * where it is one.
 */
#pragma once

#include "cache.bpf.h"
#include "maps.bpf.h"
#include "sample.bpf.h"

/* Books one packet that was parsed, at one hook point. */
static __always_inline void book(void *ctx, struct packet *packet, u64 point, void *data, void *end)
{
	u64 cpu = bpf_get_smp_processor_id();
	u32 index = cpu * HOOK_POINTS + point;
	struct hook_totals *books = totals.lookup(&index);
	bool is_new;

	if (!books)
		return;
	books->seen_packets += packet->segments;
	books->seen_bytes += packet->bytes;
	if (packet->is_truncated)
		books->truncated_packets += packet->segments;
	packet->key.lane |= point << LANE_POINT_SHIFT;
	is_new = account(ctx, packet, cpu);
	if (is_new)
		books->new_flows++;
	if (is_new && SAMPLE_FIRST)
		sample(ctx, books, packet, REASON_FIRST, data, end);
	else if (is_sampled(books))
		sample(ctx, books, packet, REASON_SAMPLED, data, end);
}
