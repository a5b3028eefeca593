/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The short way, of the packets that nearly all are: TCP or UDP over IPv4 on Ethernet, of a flow that
 * has a slot.
 *
 * The other way reads any packet, and carries what it read through structs of which BPF's ten
 * registers hold half.  Here each field is read where it is used, and what is the same for all these
 * packets is known when this is compiled: half of the instructions.  Those that rules may mean, as a
 * glance at their addresses tells, are judged on the other way.
 *
 * Everything is asked before anything is written.  So a packet that is not as expected is left to
 * the other way as if it had not been here, and both count alike.
 */
#pragma once

#include "book.bpf.h"
#include "names.bpf.h"
#include "rules.bpf.h"

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
 * The slot that has these; *key_word* is that of ports and lane.  The lane says that all else of the
 * addresses is the same, and is never that of an empty slot.
 */
static __always_inline struct flow_slot *slot_of_ipv4(struct flow_set *set, u64 src, u64 dst,
						      u64 key_word, u64 protocol)
{
#pragma unroll
	for (int way = 0; way < WAYS; way++) {
		struct flow_slot *slot = &set->slots[way];

		if (ipv4_of(slot->src_addr) == src && *ports_and_lane(slot) == key_word &&
		    ipv4_of(slot->dst_addr) == dst && slot->protocol == protocol)
			return slot;
	}
	return NULL;
}

/* Counts the packet if it is one of those.  Returns whether it did. */
static __always_inline bool count_known(const struct cursor *cursor, struct hook_totals *books,
					const struct frame *frame, u64 cpu, u64 bytes)
{
	struct ethernet_header *ethernet = cursor->pos;
	struct ipv4_header *ip = (void *)(ethernet + 1);
	struct tcp_header *tcp = (void *)(ip + 1);
	struct packet packet = {
		.bytes = bytes, .min_bytes = bytes, .max_bytes = bytes, .segments = 1};
	u64 protocol, lane, ports_be;
	struct flow_slot *slot;
	struct flow_set *set;
	u32 number;

	if (frame->link_bytes != sizeof(*ethernet) || cursor->pos + KNOWN_BYTES > cursor->end ||
	    ethernet->ethertype_be != BE16(ETH_P_IP) || ip->version_ihl != IPV4_WITHOUT_OPTIONS ||
	    ip->fragment_be & BE16(IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET) ||
	    BE16(ip->total_bytes_be) < sizeof(*ip) + sizeof(*tcp))
		return false;
	if (SAMPLE_ONE_IN && !books->sample_countdown)
		return false;
	ports_be = tcp->ports_be;
	protocol = ip->protocol;
	if (protocol == IPPROTO_TCP)
		packet.tcp_flags = tcp->flags;
	else if (protocol != IPPROTO_UDP || (TUNNELS && is_tunnel_port(ports_be >> 16)))
		return false;
	if (may_be_meant(ip->src_addr, ip->dst_addr))
		return false;
	lane = ip_lane(SHAPE_IPV4, ip->traffic_class) | frame->point << LANE_POINT_SHIFT;
	number = set_number(hash_ipv4(ip->src_addr, ip->dst_addr, ports_be, lane, protocol) >> 32,
			    cpu);
	set = flow_slots.lookup(&number);
	if (!set)
		return false;
	slot = slot_of_ipv4(set, ip->src_addr, ip->dst_addr, lane << 32 | ports_be, protocol);
	if (!slot || is_of_before(slot))
		return false;
	go_on(slot, &packet);
	add(slot, &packet, bpf_jiffies64());
	books->seen_packets++;
	books->seen_bytes += bytes;
	if (SAMPLE_ONE_IN)
		books->sample_countdown--;
	return true;
}
