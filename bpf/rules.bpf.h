/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Rules: which packets go no further.
 *
 *  1. Without rules, one lookup says so, and that is all a packet pays.
 *  2. Else it goes on in a program of its own: what that does would multiply with all paths through
 *     the parser, and be walked by the verifier each time.
 *  3. One lookup of the longest prefix for each address that rules ask for tells the boxes (see
 *     schemas/refusal.py) that accept it, and the first rules that ask for nothing else.  A hundred
 *     thousand prefixes cost what ten do, but for the memory that the trie is spread over.
 *  4. One array lookup for each other part of the packet that any box asks for takes away boxes that
 *     do not accept it.
 *  5. What is left belongs to rules by rank.  The first enforced one decides; of those that are
 *     only observed, the first one before it is counted, as what would have decided.
 *
 * Time comes from jiffies: a rule ends within two ticks of its end.  Only limits read a clock.
 */
#pragma once

#include "book.bpf.h"
#include "names.bpf.h"

/* What a set is made of is written before the control names it; see agent/rules/tables.py. */
SHARED_ARRAY(rule_control, struct rule_control, 1);
/* Key: set. */
SHARED_ARRAY(rule_sets, struct rule_set, RULE_SETS);
/* Key: set * RULE_MASKS + part + value. */
SHARED_ARRAY(rule_masks, struct rule_mask, RULE_SETS *RULE_MASKS);
/* Key: set * RULE_SLOTS + rank. */
SHARED_ARRAY(rule_entries, struct rule_entry, RULE_SETS *RULE_SLOTS);
/* Key: set * RULE_BOXES + 64 * word + BIT_PLACE of the box's bit. */
SHARED_ARRAY(rule_ranks, struct rule_rank, RULE_SETS *RULE_BOXES);
/* Key: CPU * RULE_SLOTS + slot.  We write; the agent maps it to read. */
SHARED_ARRAY(rule_books, struct rule_books, CPUS *RULE_SLOTS);
/* Key: slot.  Of limits that all packets of a rule share. */
SHARED_ARRAY(rule_buckets, struct rule_bucket, RULE_SLOTS);
/* Of limits that every source has for itself.  One that is forgotten starts anew. */
BPF_F_TABLE("lru_hash:" PINS "/rule_sources", struct rule_source, struct rule_bucket, rule_sources,
	    LIMITED_SOURCES, 0);

/* What the elements of the next one are like; never used. */
struct rule_trie_table_t {
	struct rule_prefix_key key;
	struct rule_prefix leaf;
	u32 max_entries;
	int flags;
};
__attribute__((section("maps/lpm_trie"))) struct rule_trie_table_t rule_trie = {
	.max_entries = 1, .flags = BPF_F_NO_PREALLOC};
struct rule_tries_table_t {
	int key;
	u32 leaf;
	void *(*lookup)(int *);
	u32 max_entries;
};
/* Key: set.  The agent makes it, and the tries in it; see agent/rules/tries.py. */
__attribute__((section("maps/array_of_maps$rule_trie:" PINS
		       "/rule_tries"))) struct rule_tries_table_t rule_tries = {.max_entries =
											RULE_SETS};

/* A packet on its way to the rules. */
struct judged {
	struct packet packet;
	u64 lane; /* its own, where that of its flow has the number of a context */
};
/* Key: CPU.  Programs of one CPU do not interrupt each other. */
BPF_TABLE_PINNED("array", u32, struct judged, judged_packets, CPUS, PRIVATE("judged_packets"));

/* A place of its own for each bit of a word, where counting its zeros takes a loop: a de Bruijn
 * sequence.  Also in agent/rules/tables.py. */
#define BIT_SEQUENCE   0x03f79d71b4cb0a89ULL
#define BIT_PLACE(bit) ((u64)(bit)*BIT_SEQUENCE >> 58)
/* Where more rules than this have ended since the agent took out those that had, it is not there. */
#define ENDED_AT_MOST 16
/* Headers of one packet in so many jiffies are kept, for each rule and CPU. */
#define SAMPLE_JIFFIES 4
#define ADDRESS_BITS   128
#define SIDE_BITS      32
/* The third of the four words of an address to which IPv4 is mapped. */
#define MAPPED_WORD 0xffff0000U
/* RFC 4861: who sends these is on the link, for routers would have counted it down. */
#define ND_HOP_LIMIT	      255
#define ND_FIRST	      133
#define ND_LAST		      137
#define LANE_PART(lane, part) ((lane) >> LANE_##part##_SHIFT & LANE_##part##_MASK)

/* The address of its only element, as that of the_clock in maps.bpf.h. */
#define bpf_map_lookup_elem(map, key) (map)
static __always_inline struct rule_control *the_rules(void)
{
	u32 zero = 0;

	return rule_control.lookup(&zero);
}
#undef bpf_map_lookup_elem

static __always_inline bool has_rules(void)
{
	return the_rules()->is_on;
}

/* Sends a packet that was booked on to the rules, if there are any; does not come back then. */
static __always_inline void judge(void *ctx, const bool is_xdp, const struct packet *packet,
				  u64 lane, u64 cpu)
{
	struct judged *judged;
	u32 index = cpu;

	if (!has_rules())
		return;
	judged = judged_packets.lookup(&index);
	if (!judged)
		return;
	judged->packet = *packet;
	judged->lane = lane;
	if (is_xdp)
		xdp_tails.call(ctx, TAIL_XDP_RULES);
	else
		tc_tails.call(ctx, TAIL_TC_RULES);
}

/* The entry of a rule that is in force; 0 is no rule. */
static __always_inline struct rule_entry *rule_at(u32 set, u32 rank, u64 now)
{
	u32 index = set * RULE_SLOTS + (rank & (RULE_SLOTS - 1));
	struct rule_entry *entry = rank ? rule_entries.lookup(&index) : NULL;

	if (!entry || (entry->until_jiffies && entry->until_jiffies <= now))
		return NULL;
	return entry;
}

/* The rank, if that rule is in force for packets of the version and comes before *best*. */
static __always_inline u32 before(u32 best, u32 set, u32 rank, u64 version, u64 now)
{
	struct rule_entry *entry = rule_at(set, rank, now);

	return entry && entry->versions >> version & 1 && (!best || rank < best) ? rank : best;
}

/* The rank of the first rule in force that has one of the boxes; they are in the order of ranks. */
static __always_inline u32 first_of_boxes(u32 set, u64 low, u64 high, u64 now)
{
#pragma clang loop unroll(disable)
	for (int ended = 0; ended < ENDED_AT_MOST; ended++) {
		u64 word = low ? low : high;
		u64 bit = word & -word;
		u32 index = set * RULE_BOXES + (low ? 0 : 64) + BIT_PLACE(bit);
		struct rule_rank *rank = word ? rule_ranks.lookup(&index) : NULL;

		if (!rank)
			return 0;
		if (rule_at(set, rank->rank, now))
			return rank->rank;
		if (low)
			low ^= bit;
		else
			high ^= bit;
	}
	return 0;
}

/* What is known of the longest prefix of an address; NULL where none covers it. */
static __always_inline struct rule_prefix *prefix_of(u32 set, bool is_dst, const u64 *addr)
{
	struct rule_prefix_key key = {SIDE_BITS + ADDRESS_BITS,
				      is_dst ? RULE_SIDE_DST : RULE_SIDE_SRC,
				      {addr[0], addr[1]}};
	int index = set;
	void *trie = rule_tries.lookup(&index);

	if (!addr[0] && (u32)addr[1] == MAPPED_WORD) {
		key.side = is_dst ? RULE_SIDE_DST_IPV4 : RULE_SIDE_SRC_IPV4;
		key.packed[0] = addr[1] >> 32;
		key.packed[1] = 0;
	}
	return trie ? bpf_map_lookup_elem(trie, &key) : NULL;
}

/* Leaves those boxes that accept a value of some part; all of them where none asks for it. */
static __always_inline void narrow(u64 *boxes, u32 set, u32 part, u64 value, u32 is_asked)
{
	u32 index = set * RULE_MASKS + part + value;
	struct rule_mask *mask;

	if (!is_asked)
		return;
	mask = rule_masks.lookup(&index);
	if (!mask)
		return;
	boxes[0] &= mask->boxes[0];
	boxes[1] &= mask->boxes[1];
}

/* Leaves the boxes that accept all parts of the packet but its addresses. */
static __always_inline void narrow_all(u64 *boxes, u32 set, u32 asks, const struct packet *packet,
				       u64 lane)
{
	u16 src_port = BE16((u16)packet->key.ports_be);
	u16 dst_port = BE16((u16)(packet->key.ports_be >> 16));

#define NARROW(part, value) narrow(boxes, set, RULE_PART_##part, value, asks &RULE_ASKS_##part)
	NARROW(PROTOCOL, packet->key.protocol & 0xff);
	NARROW(POINT, LANE_PART(lane, POINT));
	NARROW(SRC_PORT, src_port);
	NARROW(DST_PORT, dst_port);
	NARROW(FLAGS, packet->tcp_flags & 0xff);
	NARROW(VLAN, LANE_PART(lane, VLAN));
	NARROW(DSCP, LANE_PART(lane, DSCP));
	NARROW(VERSION, LANE_PART(lane, SHAPE) == SHAPE_IPV6);
#undef NARROW
}

/*
 * Whether a bucket has run further ahead than it may, and pays if not.  CPUs may find room at the
 * same moment: each may let one packet too many pass, which the bucket has paid for afterwards.
 */
static __always_inline bool is_used_up(struct rule_bucket *bucket, const struct rule_entry *entry,
				       u64 units, u64 now_ns)
{
	u64 paid_until_ns = bucket->paid_until_ns;
	u64 price_ns = units * entry->price >> RULE_PRICE_SHIFT;

	if (paid_until_ns < now_ns) {
		bucket->paid_until_ns = now_ns + price_ns;
		return false;
	}
	/* Asked before paying: else a super-packet that costs more than a burst would never pass. */
	if (paid_until_ns - now_ns >= entry->burst_ns)
		return true;
	__sync_fetch_and_add(&bucket->paid_until_ns, price_ns);
	return false;
}

static __always_inline bool is_over_limit(const struct rule_entry *entry,
					  const struct packet *packet)
{
	u64 now_ns = bpf_ktime_get_ns();
	u64 units = entry->unit == RULE_UNIT_BYTES ? packet->bytes : packet->segments;
	struct rule_source source = {{packet->key.src_addr[0], packet->key.src_addr[1]},
				     entry->slot};
	u32 slot = entry->slot;
	struct rule_bucket *bucket;

	bucket = entry->is_per_source ? rule_sources.lookup(&source) : rule_buckets.lookup(&slot);
	if (!bucket && entry->is_per_source) {
		struct rule_bucket first = {now_ns + (units * entry->price >> RULE_PRICE_SHIFT)};

		rule_sources.update(&source, &first);
	}
	return bucket && is_used_up(bucket, entry, units, now_ns);
}

/* Counts the packet for a rule.  Returns whether the rule refuses it. */
static __always_inline bool meet(void *ctx, const bool is_xdp, struct hook_totals *books,
				 const struct rule_entry *entry, struct packet *packet, u64 cpu,
				 u64 now, u8 verdict)
{
	u32 index = cpu * RULE_SLOTS + (entry->slot & (RULE_SLOTS - 1));
	struct rule_books *counts = rule_books.lookup(&index);
	bool is_over = entry->action == RULE_ACTION_DROP ||
		       (entry->action == RULE_ACTION_LIMIT && is_over_limit(entry, packet));

	if (!counts)
		return false;
	counts->hit_packets += packet->segments;
	counts->hit_bytes += packet->bytes;
	if (!is_over)
		return false;
	counts->over_packets += packet->segments;
	counts->over_bytes += packet->bytes;
	if (now - counts->sampled_jiffies >= SAMPLE_JIFFIES) {
		counts->sampled_jiffies = now;
		sample(ctx, is_xdp, books, packet, verdict, entry->slot);
	}
	return true;
}

/* Whether it finds out who lives on the link, without which there is no IPv6. */
static __always_inline bool is_neighbour_discovery(const struct packet *packet)
{
	u8 type = packet->key.ports_be;

	return packet->key.protocol == IPPROTO_ICMPV6 && packet->hop_limit == ND_HOP_LIMIT &&
	       type >= ND_FIRST && type <= ND_LAST;
}

/* The ranks of the rules that mean a packet: the first that is enforced, the first observed. */
struct ranks {
	u32 enforced;
	u32 observed;
};

static __always_inline struct ranks ranks_of(u32 number, const struct rule_set *set,
					     const struct packet *packet, u64 lane, u64 now)
{
	struct rule_prefix *src = NULL, *dst = NULL;
	u64 boxes[2], version = LANE_PART(lane, SHAPE) == SHAPE_IPV6;
	struct ranks ranks = {};

	if (set->has_src)
		src = prefix_of(number, false, packet->key.src_addr);
	if (set->has_dst)
		dst = prefix_of(number, true, packet->key.dst_addr);
	if (set->has_boxes) {
		boxes[0] = src ? src->boxes[0] : set->any_src[0];
		boxes[1] = src ? src->boxes[1] : set->any_src[1];
		boxes[0] &= dst ? dst->boxes[0] : set->any_dst[0];
		boxes[1] &= dst ? dst->boxes[1] : set->any_dst[1];
		if (boxes[0] | boxes[1]) {
			narrow_all(boxes, number, set->asks, packet, lane);
			ranks.enforced = first_of_boxes(number, boxes[0] & set->enforced[0],
							boxes[1] & set->enforced[1], now);
			ranks.observed = first_of_boxes(number, boxes[0] & ~set->enforced[0],
							boxes[1] & ~set->enforced[1], now);
		}
	}
	if (src) {
		ranks.enforced = before(ranks.enforced, number, src->enforced, version, now);
		ranks.observed = before(ranks.observed, number, src->observed, version, now);
	}
	if (dst) {
		ranks.enforced = before(ranks.enforced, number, dst->enforced, version, now);
		ranks.observed = before(ranks.observed, number, dst->observed, version, now);
	}
	return ranks;
}

/* Takes up the packet with which a hook went on here.  Returns whether it goes no further. */
static __always_inline bool is_refused(void *ctx, const bool is_xdp, struct judged *judged, u64 cpu)
{
	u64 shape = LANE_PART(judged->lane, SHAPE), now = bpf_jiffies64();
	struct packet *packet = &judged->packet;
	struct hook_totals *books = books_at(cpu, LANE_PART(judged->lane, POINT));
	struct rule_entry *entry;
	struct rule_set *set;
	struct ranks ranks;
	u32 number;

	/* Rules are about IP: whoever drops ARP has no network. */
	if (!books || (shape != SHAPE_IPV4 && shape != SHAPE_IPV6) ||
	    is_neighbour_discovery(packet))
		return false;
	number = the_rules()->set & 1;
	set = rule_sets.lookup(&number);
	if (!set)
		return false;
	ranks = ranks_of(number, set, packet, judged->lane, now);
	if (ranks.observed && (!ranks.enforced || ranks.observed < ranks.enforced)) {
		entry = rule_at(number, ranks.observed, now);
		if (entry)
			meet(ctx, is_xdp, books, entry, packet, cpu, now, REASON_OBSERVED);
	}
	entry = rule_at(number, ranks.enforced, now);
	if (!entry || !meet(ctx, is_xdp, books, entry, packet, cpu, now, REASON_REFUSED))
		return false;
	books->dropped_packets += packet->segments;
	books->dropped_bytes += packet->bytes;
	books->dropped_extra_packets += packet->segments - 1;
	books->dropped_extra_bytes += extra_bytes_of(packet);
	return true;
}

/* Returns whether the packet goes no further; where it does, it may go on to be named. */
static __always_inline bool apply_rules(void *ctx, const bool is_xdp)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct judged *judged = judged_packets.lookup(&cpu);

	if (!judged)
		return false;
	if (is_refused(ctx, is_xdp, judged, cpu))
		return true;
	name_packet(ctx, is_xdp, &judged->packet, cpu);
	return false;
}
