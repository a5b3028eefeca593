/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The flow cache.
 *
 * Each CPU owns a part of one array of sets, each of WAYS slots of one cache line.  The set is chosen
 * by a keyed hash; a slot with the same identity is updated in place.  A flow that finds no slot takes
 * an empty one; where its set is full, one of a second set; and where both are, it evicts the flow of
 * the two that was silent for longest.  That flow goes through the ring buffer; where that is full its
 * counts go to the hook point's overflow totals.
 *
 * Slots of a set are taken in order, and the second set only where the first is full: so nobody looks
 * behind an empty slot.  A replay alone empties slots, between two intervals; a flow whose slot is
 * behind one begins anew there, which no row tells.
 *
 * The agent maps the arrays and reads them while we write; see agent/flowcache.py.  A slot's
 * generation is odd while its identity changes, and becomes so before anybody can hear of its flow
 * in another way.  Only the owning CPU writes to a slot, and XDP and tc run with softirqs off, so
 * there is never more than one writer.
 */
#pragma once

#include "maps.bpf.h"
#include "parse.h"
#include "seed.h"

#define LONGEST_BYTES 0xffff

/* Enough for the number of any slot; with a time of 32 bits in front they fit into 63. */
#define SLOT_BITS 31

/* An eviction holds a slot, then its origin, as they were. */
_Static_assert(__builtin_offsetof(struct flow_eviction, slot_index) ==
		       sizeof(struct flow_slot) + sizeof(struct flow_origin),
	       "an eviction holds the whole origin");

/* Orders our own stores for the agent's mapping; x86 does not reorder them further. */
#define barrier() asm volatile("" ::: "memory")

/* A word of a slot that is declared as several fields. */
typedef u64 __attribute__((may_alias)) u64_of_fields;
_Static_assert(__builtin_offsetof(struct flow_slot, dst_port_be) ==
			       __builtin_offsetof(struct flow_slot, src_port_be) + 2 &&
		       __builtin_offsetof(struct flow_slot, lane) ==
			       __builtin_offsetof(struct flow_slot, src_port_be) + 4,
	       "ports and lane are one word");

static __always_inline u64_of_fields *ports_and_lane(const struct flow_slot *slot)
{
	return (u64_of_fields *)&slot->src_port_be;
}

/* The set of a flow with that hash among those of its CPU. */
static __always_inline u32 set_number(u64 hash, u64 cpu)
{
	return cpu * SETS_PER_CPU + (hash & (SETS_PER_CPU - 1));
}

/*
 * Where else a flow may be.  With half of the slots taken, one set in eight would be full, and of the
 * flows in it each packet would evict another; with two to choose from hardly any is.  The second is
 * in the same page of memory, whose address the CPU has at hand by then.
 */
static __always_inline u32 other_set_number(u32 number, u64 hash)
{
	return number ^ ((hash >> 28 | 1) & (SETS_PER_CPU - 1));
}

static __always_inline u64 key_ports_and_lane(const struct flow_key *key)
{
	return key->lane << 32 | key->ports_be;
}

/*
 * Multiply-shift: every 32-bit word of the key times a secret number of 64 bits, and of the sum the
 * upper half.  Whatever two keys somebody chooses who does not know the numbers, they share one of n
 * sets with a chance of 2 in n at most (Dietzfelbinger 1996: two sums differ by an odd multiple of a
 * power of two below 2^32, times a secret odd number, so all bits from 32 on are as likely as not).
 * Who has only chance to go by needs as many flows to fill one set as fill all of them.
 *
 * The words in front of an IPv4 address are the same in all keys of that shape, so they are left out.
 */
static __always_inline u64 hash_ipv4(u64 src, u64 dst, u64 ports_be, u64 lane, u64 protocol)
{
	return src * SEED(0) + dst * SEED(1) + ports_be * SEED(2) + lane * SEED(3) +
	       protocol * SEED(4);
}

static __always_inline u64 hash_key(const struct flow_key *key)
{
	const u64 *src = key->src_addr, *dst = key->dst_addr;
	u64 hash = hash_ipv4(src[1] >> 32, dst[1] >> 32, key->ports_be, key->lane, key->protocol);

	if (key->lane >> LANE_SHAPE_SHIFT != SHAPE_IPV4)
		hash += (u32)src[0] * SEED(5) + (src[0] >> 32) * SEED(6) + (u32)src[1] * SEED(7) +
			(u32)dst[0] * SEED(8) + (dst[0] >> 32) * SEED(9) + (u32)dst[1] * SEED(10);
	return hash >> 32;
}

static __always_inline bool is_same_flow(const struct flow_slot *slot, const struct flow_key *key)
{
	return slot->src_addr[0] == key->src_addr[0] && slot->src_addr[1] == key->src_addr[1] &&
	       slot->dst_addr[0] == key->dst_addr[0] && slot->dst_addr[1] == key->dst_addr[1] &&
	       *ports_and_lane(slot) == key_ports_and_lane(key) && slot->protocol == key->protocol;
}

/* Whether the slot tells of packets that another slot counts. */
static __always_inline bool is_copy(const struct flow_slot *slot)
{
	u32 number = slot->lane >> CONTEXT_LANE_CONTEXT_SHIFT & CONTEXT_LANE_CONTEXT_MASK;
	struct flow_context *context;

	if (TUNNELS != TUNNELS_BOTH || slot->lane >> LANE_SHAPE_SHIFT != SHAPE_CONTEXT)
		return false;
	context = contexts.lookup(&number);
	return context && context->is_copy;
}

/*
 * What the buffer was given.  An agent that is killed loses what was in a perf buffer, and knows by
 * this how much that was.
 */
static __always_inline void evicted(struct hook_totals *books, const struct flow_slot *slot)
{
	books->evictions++;
	if (is_copy(slot))
		return;
	books->evicted_packets += slot->packets;
	books->evicted_bytes += slot->bytes;
}

static __always_inline void overflow(struct hook_totals *books, const struct flow_slot *slot)
{
	books->overflows++;
	if (is_copy(slot))
		return;
	books->overflow_packets += slot->packets;
	books->overflow_bytes += slot->bytes;
}

/* The books of the evicted flow's own hook point, which may be another than the packet's. */
static __always_inline struct hook_totals *books_of(const struct flow_slot *slot, u32 cpu)
{
	u32 index = cpu * HOOK_POINTS + (slot->lane & LANE_POINT_MASK);

	return totals.lookup(&index);
}

/*
 * Tells the agent that the slot's flow has left it.  Returns the generation meanwhile; the next one
 * is that of the flow which comes.
 */
static __always_inline u16 vacate(struct flow_slot *slot)
{
	u16 generation = slot->generation | 1;

	*(volatile u16 *)&slot->generation = generation;
	barrier();
	return generation;
}

/*
 * A CPU may stand still between any two stores, for as long as a hypervisor likes.  Whoever reads the
 * slot and its flow's eviction, or its totals, must not take both for news: so the slot is vacated
 * once there is a place for the eviction, which the agent waits for, and before anything is in it.
 * A perf buffer has no such places: there it is vacated right behind the eviction.
 */
static __always_inline void evict(void *ctx, struct flow_slot *slot, u32 slot_index, u32 cpu)
{
	struct flow_origin *origin = flow_origins.lookup(&slot_index);
	struct hook_totals *books = books_of(slot, cpu);

	if (!origin || !books)
		return;
#if PERF_BUFFER
	struct flow_eviction eviction = {};

	__builtin_memcpy(&eviction, slot, sizeof(*slot));
	__builtin_memcpy(&eviction.first_ns, origin, sizeof(*origin));
	eviction.slot_index = slot_index;
	if (evictions.perf_submit(ctx, &eviction, sizeof(eviction)) < 0) {
		vacate(slot);
		overflow(books, slot);
		return;
	}
#else
	struct flow_eviction *eviction = evictions.ringbuf_reserve(sizeof(*eviction));

	if (!eviction) {
		vacate(slot);
		overflow(books, slot);
		return;
	}
	__builtin_memcpy(eviction, slot, sizeof(*slot));
	__builtin_memcpy(&eviction->first_ns, origin, sizeof(*origin));
	eviction->slot_index = slot_index;
	barrier();
	vacate(slot);
	evictions.ringbuf_submit(eviction, BPF_RB_NO_WAKEUP);
#endif
	evicted(books, slot);
}

/* A slot has 16 bits for a packet's length, and the longest stands for longer ones too. */
static __always_inline u64 at_longest(u64 bytes)
{
	return bytes > LONGEST_BYTES ? LONGEST_BYTES : bytes;
}

/*
 * Whether the flow was last seen before the interval began that the agent announced.  Then the tick
 * with which it begins may still lie ahead.
 */
static __always_inline bool is_of_before(const struct flow_slot *slot)
{
	return (s32)(slot->last_jiffies - the_clock()->interval_jiffies) < 0;
}

/* Notes what the slot had of the interval before, and begins with this packet. */
static __always_inline void begin_interval(struct flow_slot *slot, u32 slot_index,
					   const struct packet *packet)
{
	struct flow_origin *origin = flow_origins.lookup(&slot_index);

	if (origin) {
		/* Of packets since the snapshot but before the tick, only this tells. */
		origin->before_min_bytes = slot->min_bytes;
		origin->before_max_bytes = slot->max_bytes;
		origin->before_tcp_flags = slot->tcp_flags;
		origin->first_ns = bpf_ktime_get_ns();
	}
	slot->tcp_flags = packet->tcp_flags;
	slot->min_bytes = at_longest(packet->min_bytes);
	slot->max_bytes = at_longest(packet->max_bytes);
}

/* Compares before writing: most packets change none of these. */
static __always_inline void go_on(struct flow_slot *slot, const struct packet *packet)
{
	u64 flags = slot->tcp_flags | packet->tcp_flags;

	if (flags != slot->tcp_flags)
		slot->tcp_flags = flags;
	if (packet->min_bytes < slot->min_bytes)
		slot->min_bytes = packet->min_bytes;
	if (packet->max_bytes > slot->max_bytes)
		slot->max_bytes = at_longest(packet->max_bytes);
}

static __always_inline void add(struct flow_slot *slot, const struct packet *packet, u64 now)
{
	slot->last_jiffies = now;
	slot->bytes += packet->bytes;
	barrier();
	slot->packets += packet->segments;
}

/* Counts a packet of the flow that the slot holds. */
static __always_inline void touch(struct flow_slot *slot, u32 slot_index,
				  const struct packet *packet, u64 now)
{
	/*
	 * An interval begins with a tick that lies ahead when the agent announces it.  So however
	 * many packets a flow has, one of them is the first, and it is so only once.
	 */
	if (is_of_before(slot) && (s32)((u32)now - the_clock()->interval_jiffies) >= 0)
		begin_interval(slot, slot_index, packet);
	else
		go_on(slot, packet);
	add(slot, packet, now);
}

/* Gives the slot to the packet's flow. */
static __always_inline void take(struct flow_slot *slot, u32 slot_index,
				 const struct packet *packet, u64 now)
{
	struct flow_origin *origin = flow_origins.lookup(&slot_index);
	u16 generation = vacate(slot);

	slot->src_addr[0] = packet->key.src_addr[0];
	slot->src_addr[1] = packet->key.src_addr[1];
	slot->dst_addr[0] = packet->key.dst_addr[0];
	slot->dst_addr[1] = packet->key.dst_addr[1];
	*ports_and_lane(slot) = key_ports_and_lane(&packet->key);
	slot->protocol = packet->key.protocol;
	slot->tcp_flags = packet->tcp_flags;
	slot->packets = packet->segments;
	slot->bytes = packet->bytes;
	slot->last_jiffies = now;
	slot->min_bytes = at_longest(packet->min_bytes);
	slot->max_bytes = at_longest(packet->max_bytes);
	if (origin) {
		origin->before_min_bytes = LONGEST_BYTES;
		origin->before_max_bytes = 0;
		origin->before_tcp_flags = 0;
		origin->first_ns = bpf_ktime_get_ns();
	}
	barrier();
	*(volatile u16 *)&slot->generation = generation + 1;
}

/*
 * Whether the slot holds a flow.  Known by its bytes, since packets wrap; only in a capture are
 * there packets without any.
 */
static __always_inline bool is_taken(const struct flow_slot *slot)
{
	return slot->bytes || (REPLAY && slot->packets);
}

/* A slot and its number; or none.  It has the flow, or room for it. */
struct place {
	struct flow_slot *slot;
	u32 index;
	bool has_room;
};

/* Where a set has the flow, or room for it. */
static __always_inline struct place place_in(struct flow_set *set, u32 number,
					     const struct flow_key *key)
{
#pragma unroll
	for (int way = 0; way < WAYS; way++) {
		struct flow_slot *slot = &set->slots[way];

		if (!is_taken(slot))
			return (struct place){slot, number * WAYS + way, true};
		if (is_same_flow(slot, key))
			return (struct place){slot, number * WAYS + way, false};
	}
	return (struct place){};
}

/* The first empty slot of a set. */
static __always_inline struct place empty_in(struct flow_set *set, u32 number)
{
#pragma unroll
	for (int way = 0; way < WAYS; way++)
		if (!is_taken(&set->slots[way]))
			return (struct place){&set->slots[way], number * WAYS + way, true};
	return (struct place){};
}

/*
 * Which flow was silent for longest, of a set and the one that was found before: for how long, and behind
 * that the number of its slot.  A difference decides, for of a branch the verifier would walk both
 * sides at each slot.
 */
static __always_inline u64 most_silent(const struct flow_set *set, u32 number, u64 now, u64 found)
{
#pragma unroll
	for (int way = 0; way < WAYS; way++) {
		u32 age = now - set->slots[way].last_jiffies;
		u64 other = (u64)age << SLOT_BITS | (number * WAYS + way);
		s64 is_longer = (s64)(found - other) >> 63;

		opaque(is_longer);
		found ^= (found ^ other) & is_longer;
	}
	return found;
}

/* Evicts a flow for one that found both of its sets full. */
static __always_inline struct place make_room(void *ctx, struct flow_set *set, u32 number,
					      struct flow_set *other, u32 other_number, u64 cpu,
					      u64 now)
{
	u32 index = most_silent(other, other_number, now, most_silent(set, number, now, 0)) &
		    ((1U << SLOT_BITS) - 1);
	struct flow_set *chosen = index / WAYS == number ? set : other;
	struct place place = {&chosen->slots[index % WAYS], index, true};

	evict(ctx, place.slot, index, cpu);
	return place;
}

/* Counts the packet in the flow cache.  Returns whether it began a flow. */
static __always_inline bool account(void *ctx, const struct packet *packet, u64 cpu)
{
	u64 hash = hash_key(&packet->key), now = bpf_jiffies64();
	u32 number = set_number(hash, cpu), other_number = other_set_number(number, hash);
	struct flow_set *set = flow_slots.lookup(&number), *other;
	struct place place;

	if (!set)
		return false;
	place = place_in(set, number, &packet->key);
	if (!place.slot) {
		other = flow_slots.lookup(&other_number);
		if (!other)
			return false;
		place = place_in(other, other_number, &packet->key);
		if (!place.slot)
			place = make_room(ctx, set, number, other, other_number, cpu, now);
	}
	if (place.has_room)
		take(place.slot, place.index, packet, now);
	else
		touch(place.slot, place.index, packet, now);
	return place.has_room;
}
