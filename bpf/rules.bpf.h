/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Rules: which packets go no further.
 *
 *  1. Without rules, one word says so, and that is all a packet pays.
 *  2. With rules, two words tell what the first half of each address of IPv4 may have to do with
 *     them.  For most packets that is nothing, and they are done.
 *  3. Of others, addresses are looked up to their end (addresses.bpf.h).  What is found tells the
 *     boxes (see schemas/refusal.py) that accept an address, and the first rules that ask for nothing
 *     else.
 *  4. One array lookup for each other part of the packet that any box asks for takes away boxes that
 *     do not accept it.
 *  5. What is left belongs to rules by rank.  The first enforced one decides; of those that are
 *     only observed, the first one before it is counted, as what would have decided.
 *
 * Plain packets are judged where they are booked, if what decides is a rule that drops or passes.
 * Unusual ones, and all that limits, observed rules and ended ones have to do with, go on in a program
 * of their own: the way there costs more than all of the above, but here all that would be walked by
 * the verifier for each path through the parser.
 *
 * Time comes from jiffies: a rule ends within two ticks of its end.  Only limits (limits.bpf.h) read
 * a clock.
 */
#pragma once

#include "addresses.bpf.h"
#include "book.bpf.h"
#include "limits.bpf.h"
#include "names.bpf.h"

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
/* RFC 4861: who sends these is on the link, for routers would have counted it down. */
#define ND_HOP_LIMIT	      255
#define ND_FIRST	      133
#define ND_LAST		      137
#define LANE_PART(lane, part) ((lane) >> LANE_##part##_SHIFT & LANE_##part##_MASK)

/* The entry of a rule that is in force; 0 is no rule. */
static __always_inline struct rule_entry *rule_at(u32 set, u32 rank, u64 now)
{
	u32 index = set * RULE_SLOTS + (rank & (RULE_SLOTS - 1));
	struct rule_entry *entry = rank ? rule_entries.lookup(&index) : NULL;

	if (!entry || (entry->until_jiffies && entry->until_jiffies <= now))
		return NULL;
	return entry;
}

/* A rule that was found; rank 0 is none. */
struct found {
	struct rule_entry *entry;
	u32 rank;
};

/* Puts a rule that stands with a prefix in the place of one that comes after it. */
static __always_inline void put_before(struct found *found, u32 set, u32 rank, u64 version, u64 now)
{
	struct rule_entry *entry;

	if (!rank || (found->rank && found->rank < rank))
		return;
	entry = rule_at(set, rank, now);
	if (!entry || !(entry->versions >> version & 1))
		return;
	found->entry = entry;
	found->rank = rank;
}

/*
 * Finds the first rule in force that has one of the boxes; they are in the order of ranks.  Returns
 * false where all the rules that it looks at have ended, and there are more.
 */
static __always_inline bool find_in_boxes(struct found *found, u32 set, u64 low, u64 high, u64 now,
					  const int looks)
{
#pragma clang loop unroll(disable)
	for (int ended = 0; ended < looks; ended++) {
		u64 word = low ? low : high;
		u64 bit = word & -word;
		u32 index = set * RULE_BOXES + (low ? 0 : 64) + BIT_PLACE(bit);
		struct rule_rank *rank = word ? rule_ranks.lookup(&index) : NULL;

		if (!rank)
			return true;
		found->entry = rule_at(set, rank->rank, now);
		if (found->entry) {
			found->rank = rank->rank;
			return true;
		}
		if (low)
			low ^= bit;
		else
			high ^= bit;
	}
	return !(low | high);
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

/* Whether a rule says that a packet goes no further. */
static __always_inline bool is_over(const struct rule_entry *entry, const struct packet *packet)
{
	return entry->action == RULE_ACTION_DROP ||
	       (entry->action == RULE_ACTION_LIMIT && is_over_limit(entry, packet));
}

/* Counts the packet for a rule, which lets it go or not.  Returns whether it refuses it. */
static __always_inline bool meet(void *ctx, const bool is_xdp, struct hook_totals *books,
				 const struct rule_entry *entry, bool is_over,
				 struct packet *packet, u64 cpu, u64 now, u8 verdict)
{
	u32 index = cpu * RULE_SLOTS + (entry->slot & (RULE_SLOTS - 1));
	struct rule_books *counts = rule_books.lookup(&index);

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

/* What is known of a packet's addresses, NULL where nothing is, and the boxes that accept all of it. */
struct asked {
	struct rule_known *src;
	struct rule_known *dst;
	struct rule_set *set;
	u64 boxes[2];
	u32 number; /* of the set */
};

/* Returns whether a rule may mean the packet after all that is asked there. */
static __always_inline bool ask(struct asked *asked, const struct packet *packet, u64 lane)
{
	u64 shape = LANE_PART(lane, SHAPE);
	struct rule_control *control = the_rules();
	struct rule_chunk *head;
	u32 number, src, dst;

	/* Rules are about IP: whoever drops ARP has no network. */
	if (!control->is_on || (shape != SHAPE_IPV4 && shape != SHAPE_IPV6))
		return false;
	number = control->set & 1;
	head = chunk_at(number, 0);
	if (!head)
		return false;
	src = glimpse(control, head, false, packet->key.src_addr);
	dst = glimpse(control, head, true, packet->key.dst_addr);
	if (!is_asked_about(src, dst) || is_neighbour_discovery(packet))
		return false;
	asked->number = number;
	asked->set = rule_sets.lookup(&number);
	if (!asked->set)
		return false;
	src = word_of(asked->set, number, head, false, src, packet->key.src_addr);
	dst = word_of(asked->set, number, head, true, dst, packet->key.dst_addr);
	if (!is_asked_about(src, dst))
		return false;
	asked->src = known_at(number, head, src);
	asked->dst = known_at(number, head, dst);
	asked->boxes[0] = asked->boxes[1] = 0;
	if (asked->src && asked->dst && src & dst & RULE_WORD_HAS_BOXES) {
		asked->boxes[0] = asked->src->boxes[0] & asked->dst->boxes[0];
		asked->boxes[1] = asked->src->boxes[1] & asked->dst->boxes[1];
		if (asked->boxes[0] | asked->boxes[1])
			narrow_all(asked->boxes, number, asked->set->asks, packet, lane);
	}
	return true;
}

/* The first rule that is enforced; looks as often as wanted for one that has not ended. */
static __always_inline bool find_enforced(struct found *found, const struct asked *asked,
					  u64 version, u64 now, const int looks)
{
	u32 number = asked->number;
	bool is_found;

	is_found = find_in_boxes(found, number, asked->boxes[0] & asked->set->enforced[0],
				 asked->boxes[1] & asked->set->enforced[1], now, looks);
	if (asked->src)
		put_before(found, number, asked->src->enforced, version, now);
	if (asked->dst)
		put_before(found, number, asked->dst->enforced, version, now);
	return is_found;
}

/* The same of rules that are observed. */
static __always_inline void find_observed(struct found *found, const struct asked *asked,
					  u64 version, u64 now)
{
	u32 number = asked->number;

	find_in_boxes(found, number, asked->boxes[0] & ~asked->set->enforced[0],
		      asked->boxes[1] & ~asked->set->enforced[1], now, ENDED_AT_MOST);
	if (asked->src)
		put_before(found, number, asked->src->observed, version, now);
	if (asked->dst)
		put_before(found, number, asked->dst->observed, version, now);
}

/* Whether an observed rule may mean the packet. */
static __always_inline bool may_be_observed(const struct asked *asked)
{
	return asked->boxes[0] & ~asked->set->enforced[0] ||
	       asked->boxes[1] & ~asked->set->enforced[1] || (asked->src && asked->src->observed) ||
	       (asked->dst && asked->dst->observed);
}

/* Counts the packet for the rule that decides about it.  Returns whether it is refused. */
static __always_inline bool is_refused(void *ctx, const bool is_xdp, struct hook_totals *books,
				       const struct rule_entry *entry, bool is_over,
				       struct packet *packet, u64 cpu, u64 now)
{
	if (!meet(ctx, is_xdp, books, entry, is_over, packet, cpu, now, REASON_REFUSED))
		return false;
	books->dropped_packets += packet->segments;
	books->dropped_bytes += packet->bytes;
	books->dropped_extra_packets += packet->segments - 1;
	books->dropped_extra_bytes += extra_bytes_of(packet);
	return true;
}

/* Sends a packet that was booked on to be judged in full; comes back only where it cannot. */
static __always_inline void judge_apart(void *ctx, const bool is_xdp, const struct packet *packet,
					u64 lane, u64 cpu)
{
	u32 index = cpu;
	struct judged *judged = judged_packets.lookup(&index);

	if (!has_rules() || !judged)
		return;
	judged->packet = *packet;
	judged->lane = lane;
	if (is_xdp)
		xdp_tails.call(ctx, TAIL_XDP_RULES);
	else
		tc_tails.call(ctx, TAIL_TC_RULES);
}

/* Judges a packet that was booked, in full or on its way there.  Returns whether it is refused. */
static __always_inline bool judge(void *ctx, const bool is_xdp, struct hook_totals *books,
				  struct packet *packet, u64 lane, u64 cpu)
{
	u64 version = LANE_PART(lane, SHAPE) == SHAPE_IPV6, now = bpf_jiffies64();
	struct found found = {};
	struct asked asked;

	if (!ask(&asked, packet, lane))
		return false;
	if (may_be_observed(&asked) || !find_enforced(&found, &asked, version, now, 1) ||
	    (found.entry && found.entry->action == RULE_ACTION_LIMIT)) {
		judge_apart(ctx, is_xdp, packet, lane, cpu);
		return false;
	}
	return found.entry && is_refused(ctx, is_xdp, books, found.entry,
					 found.entry->action == RULE_ACTION_DROP, packet, cpu, now);
}

/* Judges a packet that was sent on.  Returns whether it is refused. */
static __always_inline bool judge_in_full(void *ctx, const bool is_xdp, struct hook_totals *books,
					  struct packet *packet, u64 lane, u64 cpu)
{
	u64 version = LANE_PART(lane, SHAPE) == SHAPE_IPV6, now = bpf_jiffies64();
	struct found enforced = {}, observed = {};
	struct asked asked;

	if (!ask(&asked, packet, lane))
		return false;
	find_enforced(&enforced, &asked, version, now, ENDED_AT_MOST);
	find_observed(&observed, &asked, version, now);
	if (observed.entry && (!enforced.entry || observed.rank < enforced.rank))
		meet(ctx, is_xdp, books, observed.entry, is_over(observed.entry, packet), packet,
		     cpu, now, REASON_OBSERVED);
	return enforced.entry && is_refused(ctx, is_xdp, books, enforced.entry,
					    is_over(enforced.entry, packet), packet, cpu, now);
}

/* Takes up a packet that was sent on.  Where it goes further, it may go on to be named. */
static __always_inline bool apply_rules(void *ctx, const bool is_xdp)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct judged *judged = judged_packets.lookup(&cpu);
	struct hook_totals *books;

	if (!judged)
		return false;
	books = books_at(cpu, LANE_PART(judged->lane, POINT));
	if (books && judge_in_full(ctx, is_xdp, books, &judged->packet, judged->lane, cpu))
		return true;
	name_packet(ctx, is_xdp, &judged->packet, cpu);
	return false;
}
