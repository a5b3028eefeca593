/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From the bytes of a plain packet to the identity of its flow.
 *
 * Plain is what almost every packet is: one VLAN tag at most, IPv4 without options or IPv6 without
 * extension headers, no fragment, no tunnel, and all headers in front of us.  Whatever else it is,
 * dissect.h reads it from the beginning; so what is here stays short, and rare packets cost the
 * common ones one comparison each.  Nothing here touches a map.
 */
#pragma once

#include "protocols.h"

/* Version 4, a header of five words. */
#define IPV4_WITHOUT_OPTIONS 0x45

/* Keeps the compiler from moving arithmetic across. */
#define opaque(value) asm volatile("" : "+r"(value))

/*
 * A copy of a byte to be compared.  What the verifier learns of that it does not learn of the value, so
 * paths that were told apart by it are alike afterwards, and it walks what comes behind once.
 */
static __always_inline u64 compared(u64 value)
{
	opaque(value);
	return value & 0xff;
}

#define VLAN_TAG_BYTES 4

/* Whether anybody wants to know names that packets carry. */
#define NAMES (DNS || TLS)

struct cursor {
	void *pos;
	void *end;
};

/*
 * What identifies a flow, in words as wide as a register: BPF masks narrower ones at each use.
 * Ports and lane lie side by side in a slot, and are one word to hash, to compare and to store.
 */
struct flow_key {
	u64 src_addr[2];
	u64 dst_addr[2];
	u64 ports_be; /* source port in front, as in memory */
	u64 lane;
	u64 protocol;
};

/* A frame, read. */
struct packet {
	struct flow_key key;
	u64 bytes; /* as the wire carries it: every segment, with headers and tags */
	u64 segments;
	u64 min_bytes; /* the smallest of those segments */
	u64 max_bytes;
	u64 tag_bytes;	  /* of a tag that the kernel keeps aside */
	u64 header_bytes; /* of all headers in the frame: behind them comes the payload */
	u64 tcp_flags;
	u64 hop_limit;
	u64 is_truncated;
#if NAMES
	u64 payload_end; /* where it ends in the frame; 0 where nothing is to be read there */
	u64 sequence;	 /* of TCP */
#endif
};

/* What is behind ports, for those who look for names there. */
static __always_inline void note_payload(struct packet *packet, u64 end, u32 sequence_be)
{
#if NAMES
	packet->payload_end = end;
	packet->sequence = BE32(sequence_be);
#endif
}

static __always_inline void mapped_ipv4(u64 *addr, u32 ipv4)
{
	addr[0] = 0;
	addr[1] = (u64)ipv4 << 32 | 0xffff0000;
}

/* DSCP is the upper six bits of the traffic class. */
static __always_inline u64 ip_lane(u64 shape, u64 traffic_class)
{
	return shape << LANE_SHAPE_SHIFT | traffic_class >> 2 << LANE_DSCP_SHIFT;
}

static __always_inline bool is_tag(u16 ethertype_be)
{
	return ethertype_be == BE16(ETH_P_8021Q) || ethertype_be == BE16(ETH_P_8021AD) ||
	       ethertype_be == BE16(ETH_P_QINQ1);
}

/* Behind these comes more to read than ports: extension headers, and packets in packets. */
static __always_inline bool is_wrapper(u64 protocol)
{
	const u64 wrappers = 1ULL << IPPROTO_HOPOPTS | 1ULL << IPPROTO_IPIP | 1ULL << IPPROTO_IPV6 |
			     1ULL << IPPROTO_ROUTING | 1ULL << IPPROTO_FRAGMENT |
			     1ULL << IPPROTO_GRE | 1ULL << IPPROTO_AH | 1ULL << IPPROTO_DSTOPTS;

	return protocol < 64 && wrappers >> protocol & 1;
}

static __always_inline bool is_tunnel_port(u16 port_be)
{
	return IS_VXLAN_PORT(port_be) || port_be == BE16(GENEVE_PORT);
}

static __always_inline bool is_echo(u16 type_and_code_be, u64 protocol)
{
	u8 type = BE16(type_and_code_be) >> 8;

	return protocol == IPPROTO_ICMP ? type == ICMP_ECHO_REQUEST || type == ICMP_ECHO_REPLY
					: type == ICMPV6_ECHO_REQUEST || type == ICMPV6_ECHO_REPLY;
}

/* Type and code stand where other protocols have their source port, the id of an echo behind. */
static __always_inline u32 icmp_ports_be(const struct icmp_header *icmp, u64 protocol)
{
	u32 id_be = is_echo(icmp->type_and_code_be, protocol) ? icmp->id_be : 0;

	return id_be << 16 | icmp->type_and_code_be;
}

/* Reads Ethernet and one tag. */
static __always_inline bool parse_ethernet(struct cursor *cursor, struct packet *packet,
					   u16 *ethertype_be)
{
	struct ethernet_header *ethernet = cursor->pos;
	struct vlan_header *vlan = (void *)(ethernet + 1);

	if ((void *)(ethernet + 1) > cursor->end)
		return false;
	*ethertype_be = ethernet->ethertype_be;
	cursor->pos = ethernet + 1;
	packet->header_bytes += sizeof(*ethernet);
	if (!is_tag(*ethertype_be))
		return true;
	/* Behind a tag that the kernel keeps aside, this is the second. */
	if (packet->tag_bytes || (void *)(vlan + 1) > cursor->end)
		return false;
	packet->key.lane = (BE16(vlan->tci_be) & VLAN_VID_MASK) << LANE_VLAN_SHIFT;
	packet->header_bytes += sizeof(*vlan);
	*ethertype_be = vlan->ethertype_be;
	cursor->pos = vlan + 1;
	return !is_tag(*ethertype_be);
}

/* A link without Ethernet carries bare IP packets: the version is all there is to go by. */
static __always_inline bool parse_bare(struct cursor *cursor, u16 *ethertype_be)
{
	u8 *first = cursor->pos;

	if ((void *)(first + 1) > cursor->end)
		return false;
	*ethertype_be = *first >> 4 == 6 ? BE16(ETH_P_IPV6) : BE16(ETH_P_IP);
	return true;
}

/* Reads the header, and how many bytes it says come behind. */
static __always_inline bool parse_ipv4(struct cursor *cursor, struct packet *packet,
				       u64 *payload_bytes)
{
	struct ipv4_header *ip = cursor->pos;

	if ((void *)(ip + 1) > cursor->end || ip->version_ihl != IPV4_WITHOUT_OPTIONS ||
	    ip->fragment_be & BE16(IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET))
		return false;
	mapped_ipv4(packet->key.src_addr, ip->src_addr);
	mapped_ipv4(packet->key.dst_addr, ip->dst_addr);
	packet->key.lane |= ip_lane(SHAPE_IPV4, ip->traffic_class);
	packet->key.protocol = ip->protocol;
	packet->hop_limit = ip->hop_limit;
	packet->header_bytes += sizeof(*ip);
	*payload_bytes = BE16(ip->total_bytes_be) - sizeof(*ip);
	cursor->pos = ip + 1;
	return BE16(ip->total_bytes_be) >= sizeof(*ip);
}

static __always_inline bool parse_ipv6(struct cursor *cursor, struct packet *packet,
				       u64 *payload_bytes)
{
	struct ipv6_header *ip = cursor->pos;

	if ((void *)(ip + 1) > cursor->end || *(u8 *)ip >> 4 != 6)
		return false;
	packet->key.src_addr[0] = ip->src_addr[0];
	packet->key.src_addr[1] = ip->src_addr[1];
	packet->key.dst_addr[0] = ip->dst_addr[0];
	packet->key.dst_addr[1] = ip->dst_addr[1];
	packet->key.lane |= ip_lane(SHAPE_IPV6, BE16(ip->version_class_be) >> 4 & 0xff);
	packet->key.protocol = ip->next_header;
	packet->hop_limit = ip->hop_limit;
	packet->header_bytes += sizeof(*ip);
	*payload_bytes = BE16(ip->payload_bytes_be);
	cursor->pos = ip + 1;
	return true;
}

/* Fills ports and flags, and leaves them zero where the protocol has none. */
static __always_inline bool parse_transport(struct cursor *cursor, struct packet *packet,
					    u64 payload_bytes, bool is_super)
{
	struct tcp_header *tcp = cursor->pos;
	struct ports_header *ports = cursor->pos;
	struct icmp_header *icmp = cursor->pos;
	u64 protocol = compared(packet->key.protocol);

	switch (protocol) {
	case IPPROTO_TCP:
		if ((void *)(tcp + 1) > cursor->end || payload_bytes < sizeof(*tcp))
			return false;
		packet->key.ports_be = tcp->ports_be;
		packet->tcp_flags = tcp->flags;
		note_payload(packet, packet->header_bytes + payload_bytes, tcp->seq_be);
		packet->header_bytes += (tcp->data_offset >> 4) * 4;
		return true;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		if ((void *)(ports + 1) > cursor->end || payload_bytes < sizeof(*ports))
			return false;
		packet->key.ports_be = ports->ports_be;
		note_payload(packet, packet->header_bytes + payload_bytes, 0);
		packet->header_bytes += sizeof(*ports);
		/* Super-packets repeat the headers in the tunnel, whether we name those or not. */
		return !((TUNNELS || is_super) && is_tunnel_port(ports->ports_be >> 16));
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if ((void *)(icmp + 1) > cursor->end || payload_bytes < sizeof(*icmp))
			return false;
		packet->key.ports_be = icmp_ports_be(icmp, protocol);
		return true;
	default:
		return !is_wrapper(protocol);
	}
}

/* Fills the key from a frame.  Returns false where the packet is not a plain one. */
static __always_inline bool parse_plain(struct cursor *cursor, struct packet *packet,
					u32 link_bytes, bool is_super)
{
	u64 payload_bytes = 0;
	u16 ethertype_be = 0;

	if (link_bytes ? !parse_ethernet(cursor, packet, &ethertype_be)
		       : !parse_bare(cursor, &ethertype_be))
		return false;
	if (ethertype_be == BE16(ETH_P_IP))
		return parse_ipv4(cursor, packet, &payload_bytes) &&
		       parse_transport(cursor, packet, payload_bytes, is_super);
	if (ethertype_be == BE16(ETH_P_IPV6))
		return parse_ipv6(cursor, packet, &payload_bytes) &&
		       parse_transport(cursor, packet, payload_bytes, is_super);
	packet->key.ports_be =
		BE16(ethertype_be) < ETH_P_802_3_MIN ? BE16(ETH_P_802_2) : ethertype_be;
	return true;
}
