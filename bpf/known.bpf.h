/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The short way, of the packets that nearly all are: TCP or UDP over IPv4 on Ethernet.
 *
 * The other way reads any packet, and carries what it read through structs of which BPF's ten
 * registers hold half.  Here each field is read where it is used, and what is the same for all these
 * packets is known when this is compiled: half of the instructions.  A flow begins here too; its slot,
 * or the one that it takes, is found by the same look at its set.  Packets that rules may mean, as a
 * glance at their addresses tells, are judged on the other way.
 *
 * Everything is asked before anything is written.  So a packet that is not as expected is left to
 * the other way as if it had not been here, and both count alike.
 */
#pragma once

#include "addresses.bpf.h"
#include "book.bpf.h"

/* All that is read of a packet; what is shorter goes the other way. */
#define KNOWN_BYTES                                                                                \
	(sizeof(struct ethernet_header) + sizeof(struct ipv4_header) + sizeof(struct tcp_header))

/* While packets are captured, named or come from a capture, all are read the other way. */
#if CAPTURES || NAMES || REPLAY
#define HAS_SHORT_WAY 0
#else
#define HAS_SHORT_WAY 1
#endif

/* The word of a mapped address in which the IPv4 one is. */
typedef u32 __attribute__((may_alias)) u32_of_address;

static __always_inline u32 ipv4_of(const u64 *mapped)
{
	return ((const u32_of_address *)mapped)[3];
}

/*
 * The slot of a set that has the flow, looked for until one is empty.  The lane says that all else of the
 * addresses is the same, and is never that of an empty slot.
 */
static __always_inline struct flow_slot *
slot_of_ipv4(struct flow_set *set, const struct ipv4_header *ip, const struct flow_key *key)
{
#pragma unroll
	for (int way = 0; way < WAYS; way++) {
		struct flow_slot *slot = &set->slots[way];

		if (ipv4_of(slot->src_addr) == ip->src_addr &&
		    *ports_and_lane(slot) == key_ports_and_lane(key) &&
		    ipv4_of(slot->dst_addr) == ip->dst_addr && slot->protocol == key->protocol)
			return slot;
		if (!is_taken(slot))
			break;
	}
	return NULL;
}

/* Counts the first packet of a flow in the slot that it is given. */
static __always_inline void begin_known(void *ctx, const bool is_xdp, struct hook_totals *books,
					const struct place *place, const struct ipv4_header *ip,
					struct packet *packet, u64 now)
{
	mapped_ipv4(packet->key.src_addr, ip->src_addr);
	mapped_ipv4(packet->key.dst_addr, ip->dst_addr);
	packet->hop_limit = ip->hop_limit;
	take(place->slot, place->index, packet, now);
	books->new_flows++;
	if (SAMPLE_FIRST)
		sample(ctx, is_xdp, books, packet, REASON_FIRST, 0);
	else if (SAMPLE_ONE_IN)
		books->sample_countdown--;
}

/* Counts the packet if it is one of those.  Returns whether it did. */
static __always_inline bool count_known(void *ctx, const bool is_xdp, const struct cursor *cursor,
					struct hook_totals *books, const struct frame *frame,
					u64 cpu, u64 bytes)
{
	struct ethernet_header *ethernet = cursor->pos;
	struct ipv4_header *ip = (void *)(ethernet + 1);
	struct tcp_header *tcp = (void *)(ip + 1);
	struct packet packet = {
		.bytes = bytes, .min_bytes = bytes, .max_bytes = bytes, .segments = 1};
	struct flow_key *key = &packet.key;
	struct flow_set *set, *other;
	u32 number, other_number;
	struct flow_slot *slot;
	struct place place;
	u64 hash;

	if (frame->link_bytes != sizeof(*ethernet) || cursor->pos + KNOWN_BYTES > cursor->end ||
	    ethernet->ethertype_be != BE16(ETH_P_IP) || ip->version_ihl != IPV4_WITHOUT_OPTIONS ||
	    ip->fragment_be & BE16(IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET) ||
	    BE16(ip->total_bytes_be) < sizeof(*ip) + sizeof(*tcp))
		return false;
	if (SAMPLE_ONE_IN && !books->sample_countdown)
		return false;
	key->ports_be = tcp->ports_be;
	key->protocol = ip->protocol;
	if (key->protocol == IPPROTO_TCP)
		packet.tcp_flags = tcp->flags;
	else if (key->protocol != IPPROTO_UDP || (TUNNELS && is_tunnel_port(key->ports_be >> 16)))
		return false;
	if (may_be_meant(ip->src_addr, ip->dst_addr))
		return false;
	key->lane = ip_lane(SHAPE_IPV4, ip->traffic_class) | frame->point << LANE_POINT_SHIFT;
	hash = hash_ipv4(ip->src_addr, ip->dst_addr, key->ports_be, key->lane, key->protocol) >> 32;
	number = set_number(hash, cpu);
	set = flow_slots.lookup(&number);
	if (!set)
		return false;
	slot = slot_of_ipv4(set, ip, key);
	if (!slot) {
		/* Looks twice at slots that are at hand: packets of known flows do not pay for this. */
		place = empty_in(set, number);
		if (!place.slot) {
			other_number = other_set_number(number, hash);
			other = flow_slots.lookup(&other_number);
			if (!other)
				return false;
			slot = slot_of_ipv4(other, ip, key);
			if (!slot)
				place = empty_in(other, other_number);
			if (!slot && !place.slot)
				place = make_room(ctx, set, number, other, other_number, cpu,
						  bpf_jiffies64());
		}
	}
	if (slot) {
		if (is_of_before(slot))
			return false;
		go_on(slot, &packet);
		add(slot, &packet, bpf_jiffies64());
		if (SAMPLE_ONE_IN)
			books->sample_countdown--;
	} else {
		begin_known(ctx, is_xdp, books, &place, ip, &packet, bpf_jiffies64());
	}
	books->seen_packets++;
	books->seen_bytes += bytes;
	return true;
}
