/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What surrounds a packet, where it is more than one VLAN tag: a second tag, or a tunnel.
 *
 * A slot of the flow cache has no room for that.  So each CPU keeps a table of the surroundings it
 * has met, and a slot holds the number of an entry in place of VLAN and DSCP.  Entries are written
 * once and stay, so the agent may read them at any time.
 */
#pragma once

#include "dissect.bpf.h"
#include "maps.bpf.h"
#include "seed.h"

/* How far from its own place an entry may lie. */
#define CONTEXT_WAYS 8

#define CONTEXT_WORDS (sizeof(struct flow_context) / sizeof(u64))

typedef u64 __attribute__((may_alias)) context_word;

static __always_inline bool is_same_context(const struct flow_context *one,
					    const struct flow_context *other)
{
	const context_word *a = (void *)one, *b = (void *)other;
	u64 difference = 0;

#pragma unroll
	for (int word = 0; word < CONTEXT_WORDS; word++)
		difference |= a[word] ^ b[word];
	return !difference;
}

static __always_inline u64 hash_context(const struct flow_context *context)
{
	const context_word *words = (void *)context;
	u64 hash = SEED(0);

#pragma unroll
	for (int word = 0; word < CONTEXT_WORDS; word++) {
		hash = (hash ^ __builtin_bswap64(words[word])) * SEED(1);
		hash ^= hash >> 32;
	}
	return hash;
}

/* An entry that holds nothing is all zero: what has a context has a tunnel or an inner tag. */
static __always_inline bool is_empty(const struct flow_context *context)
{
	return !context->tunnel && !context->inner_vlan;
}

/* Returns the number of the context, which is entered where it is new; or -1, there is no room. */
static __always_inline s64 number_of(const struct flow_context *context, u64 cpu)
{
	u64 first = hash_context(context);

#pragma clang loop unroll(disable)
	for (int way = 0; way < CONTEXT_WAYS; way++) {
		u32 index = cpu * CONTEXTS_PER_CPU + ((first + way) & (CONTEXTS_PER_CPU - 1));
		struct flow_context *entry = contexts.lookup(&index);

		if (!entry)
			return -1;
		if (is_same_context(entry, context))
			return index;
		if (is_empty(entry)) {
			/* The slot with its number is written later, as the agent reads it first. */
			__builtin_memcpy(entry, context, sizeof(*entry));
			return index;
		}
	}
	return -1;
}

/* What surrounds the packet, which is inside the tunnel that was read or outside. */
static __always_inline void fill_context(struct flow_context *context, const struct packet *packet,
					 const struct dissection *d, u64 is_inside)
{
	__builtin_memset(context, 0, sizeof(*context));
	context->vlan = d->vlan;
	context->inner_vlan = d->inner_vlan;
	context->dscp = packet->key.lane >> LANE_DSCP_SHIFT & LANE_DSCP_MASK;
	context->shape = packet->key.lane >> LANE_SHAPE_SHIFT & LANE_SHAPE_MASK;
	if (!is_inside)
		return;
	context->outer_src_addr[0] = d->outer.key.src_addr[0];
	context->outer_src_addr[1] = d->outer.key.src_addr[1];
	context->outer_dst_addr[0] = d->outer.key.dst_addr[0];
	context->outer_dst_addr[1] = d->outer.key.dst_addr[1];
	context->vni = d->vni;
	context->tunnel = d->tunnel;
}

/* Puts a lane that names a context in place of one that tells VLAN and DSCP. */
static __always_inline bool set_context(struct packet *packet, const struct flow_context *context,
					u64 cpu)
{
	s64 number = number_of(context, cpu);

	if (number < 0)
		return false;
	packet->key.lane = (u64)number << CONTEXT_LANE_CONTEXT_SHIFT | (u64)SHAPE_CONTEXT
									       << LANE_SHAPE_SHIFT;
	return true;
}
