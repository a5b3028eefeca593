/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From the bytes of a frame to the identity of its flow.
 *
 * Parsers move a cursor and never read past its end.  What they return is named for what it is:
 * an ethertype in network order, or a protocol number; -1 says that the frame ended first.
 * Nothing here touches a map.
 */
#pragma once

#include "events.h"

/* Keeps the compiler from moving arithmetic across. */
#define opaque(value) asm volatile("" : "+r"(value))
#define BE16(x)	      ((u16)__builtin_bswap16(x))

/* IEEE 802 numbers, as linux/if_ether.h names them. */
#define ETH_P_802_2	0x0004
#define ETH_P_802_3_MIN 0x0600
#define ETH_P_IP	0x0800
#define ETH_P_IPV6	0x86dd
#define ETH_P_8021Q	0x8100
#define ETH_P_8021AD	0x88a8
#define VLAN_VID_MASK	0x0fff

/* IANA protocol numbers. */
#define IPPROTO_HOPOPTS	 0
#define IPPROTO_ICMP	 1
#define IPPROTO_TCP	 6
#define IPPROTO_UDP	 17
#define IPPROTO_ROUTING	 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_AH	 51
#define IPPROTO_ICMPV6	 58
#define IPPROTO_DSTOPTS	 60
#define IPPROTO_SCTP	 132
#define IPPROTO_UDPLITE	 136

/* Tags inside the frame; the kernel may keep one more aside. */
#define VLAN_MAX_DEPTH 2
/* RFC 8200 section 4.1 orders six kinds of extension header, one of them twice. */
#define IPV6_EXTENSIONS_MAX 7

/* More than that in front of the ports is an attack, not a packet. */
#define IPV6_EXTENSIONS_BYTES 1024

struct ethernet_header {
	u8 dst[6];
	u8 src[6];
	u16 ethertype_be;
} __attribute__((packed));

struct vlan_header {
	u16 tci_be;
	u16 ethertype_be;
};

struct ipv4_header {
	u8 version_ihl;
	u8 traffic_class;
	u16 total_bytes_be;
	u16 id_be;
	u16 fragment_be;
	u8 hop_limit;
	u8 protocol;
	u16 checksum_be;
	u32 src_addr;
	u32 dst_addr;
};

struct ipv6_header {
	u16 version_class_be; /* and the first four bits of the flow label */
	u16 label_be;
	u16 payload_bytes_be;
	u8 next_header;
	u8 hop_limit;
	u64 src_addr[2];
	u64 dst_addr[2];
} __attribute__((packed, aligned(4)));

struct ipv6_extension {
	u8 next_header;
	u8 length;
	u16 fragment_be;
	u32 id_be;
};

struct tcp_header {
	u32 ports_be;
	u32 seq_be;
	u32 ack_be;
	u8 data_offset;
	u8 flags;
	u16 window_be;
	u16 checksum_be;
	u16 urgent_be;
};

/* The beginning of UDP, UDP-Lite and SCTP alike. */
struct ports_header {
	u32 ports_be;
	u32 other;
};

struct icmp_header {
	u16 type_and_code_be;
	u16 checksum_be;
};

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
	u64 header_bytes; /* what each segment of a super-packet repeats */
	u64 tcp_flags;
	u64 hop_limit;
	bool is_truncated;
};

/* Returns the ethertype behind the tags; an id found is kept only where none is known yet. */
static __always_inline int parse_ethertype_be(struct cursor *cursor, struct packet *packet)
{
	struct ethernet_header *ethernet = cursor->pos;
	u16 ethertype_be;

	if ((void *)(ethernet + 1) > cursor->end)
		return -1;
	ethertype_be = ethernet->ethertype_be;
	cursor->pos = ethernet + 1;
	packet->header_bytes += sizeof(*ethernet);
#pragma unroll
	for (int depth = 0; depth < VLAN_MAX_DEPTH; depth++) {
		struct vlan_header *vlan = cursor->pos;

		if (ethertype_be != BE16(ETH_P_8021Q) && ethertype_be != BE16(ETH_P_8021AD))
			break;
		if ((void *)(vlan + 1) > cursor->end)
			return -1;
		if (!packet->key.lane)
			packet->key.lane = (BE16(vlan->tci_be) & VLAN_VID_MASK) << LANE_VLAN_SHIFT;
		ethertype_be = vlan->ethertype_be;
		cursor->pos = vlan + 1;
		packet->header_bytes += sizeof(*vlan);
	}
	return ethertype_be;
}

/* Tunnels and WireGuard carry bare IP packets: the version is all there is to go by. */
static __always_inline int parse_bare_ethertype_be(struct cursor *cursor)
{
	u8 *first = cursor->pos;

	if ((void *)(first + 1) > cursor->end)
		return -1;
	return *first >> 4 == 6 ? BE16(ETH_P_IPV6) : BE16(ETH_P_IP);
}

/* DSCP is the upper six bits of the traffic class. */
static __always_inline u64 ip_lane(u64 shape, u64 traffic_class)
{
	return shape << LANE_SHAPE_SHIFT | traffic_class >> 2 << LANE_DSCP_SHIFT;
}

/* Returns the protocol; a later fragment's ports are elsewhere, which *has_ports says. */
static __always_inline int parse_ipv4(struct cursor *cursor, struct packet *packet, bool *has_ports)
{
	struct ipv4_header *ip = cursor->pos;
	u32 header_bytes;

	if ((void *)(ip + 1) > cursor->end)
		return -1;
	header_bytes = (ip->version_ihl & 0x0f) * 4;
	if (ip->version_ihl >> 4 != 4 || header_bytes < sizeof(*ip))
		return -1;
	packet->key.src_addr[0] = 0;
	packet->key.src_addr[1] = (u64)ip->src_addr << 32 | 0xffff0000;
	packet->key.dst_addr[0] = 0;
	packet->key.dst_addr[1] = (u64)ip->dst_addr << 32 | 0xffff0000;
	packet->key.lane |= ip_lane(SHAPE_IPV4, ip->traffic_class);
	packet->hop_limit = ip->hop_limit;
	*has_ports = !(ip->fragment_be & BE16(0x1fff));
	cursor->pos += header_bytes;
	packet->header_bytes += header_bytes;
	return ip->protocol;
}

/* One test, where a switch would give the verifier a path for each kind in each round. */
static __always_inline bool is_extension(u8 kind)
{
	const u64 extensions = 1ULL << IPPROTO_HOPOPTS | 1ULL << IPPROTO_ROUTING |
			       1ULL << IPPROTO_FRAGMENT | 1ULL << IPPROTO_AH |
			       1ULL << IPPROTO_DSTOPTS;

	return kind < 64 && extensions >> kind & 1;
}

/*
 * Counted in units of 8 bytes beside the first; AH (RFC 4302) in units of 4 beside two; and a
 * fragment header, which has a reserved byte for its length, is one unit.
 * Arithmetic all through: each branch here would double the verifier's states in each round.
 */
static __always_inline u64 extension_bytes(u64 kind, u64 length)
{
	u64 is_ah = ((kind ^ IPPROTO_AH) - 1) >> 63;
	u64 is_fragment = ((kind ^ IPPROTO_FRAGMENT) - 1) >> 63;

	opaque(is_ah);
	opaque(is_fragment);
	return (length * (1 - is_fragment) + 1 + is_ah) << (3 - is_ah);
}

/* The extension header of this kind ends outside the frame, or nowhere near. */
static __always_inline int give_up(struct packet *packet, bool *has_ports, int protocol)
{
	packet->is_truncated = 1;
	*has_ports = false;
	return protocol;
}

/* Returns the protocol behind the extension headers, or of the first that cannot be passed. */
static __always_inline int parse_ipv6(struct cursor *cursor, struct packet *packet, bool *has_ports)
{
	struct ipv6_header *ip = cursor->pos;
	u64 offset = 0;
	u8 protocol;

	if ((void *)(ip + 1) > cursor->end)
		return -1;
	if ((*(u8 *)ip >> 4) != 6)
		return -1;
	packet->key.src_addr[0] = ip->src_addr[0];
	packet->key.src_addr[1] = ip->src_addr[1];
	packet->key.dst_addr[0] = ip->dst_addr[0];
	packet->key.dst_addr[1] = ip->dst_addr[1];
	packet->key.lane |= ip_lane(SHAPE_IPV6, BE16(ip->version_class_be) >> 4 & 0xff);
	packet->hop_limit = ip->hop_limit;
	protocol = ip->next_header;
#pragma unroll
	for (int count = 0; count < IPV6_EXTENSIONS_MAX && is_extension(protocol); count++) {
		struct ipv6_extension *extension = (void *)(ip + 1) + offset;

		if ((void *)(extension + 1) > cursor->end)
			return give_up(packet, has_ports, protocol);
		/* Behind a later fragment there is no header to parse. */
		if (protocol == IPPROTO_FRAGMENT && extension->fragment_be & BE16(0xfff8))
			*has_ports = false;
		offset += extension_bytes(protocol, extension->length);
		/*
		 * As a number of its own the offset looks alike after each round, whatever the
		 * headers were; as part of a pointer it doubled the verifier's states (6.18).
		 */
		opaque(offset);
		if (offset > IPV6_EXTENSIONS_BYTES)
			return give_up(packet, has_ports, protocol);
		protocol = extension->next_header;
		if (!*has_ports)
			return protocol;
	}
	cursor->pos = (void *)(ip + 1) + offset;
	packet->header_bytes += sizeof(*ip) + offset;
	return protocol;
}

/* Fills ports and flags, and leaves them zero where the protocol has none. */
static __always_inline int parse_ports(struct cursor *cursor, struct packet *packet, u8 protocol)
{
	struct tcp_header *tcp = cursor->pos;
	struct ports_header *ports = cursor->pos;
	struct icmp_header *icmp = cursor->pos;

	switch (protocol) {
	case IPPROTO_TCP:
		if ((void *)(tcp + 1) > cursor->end)
			return -1;
		packet->key.ports_be = tcp->ports_be;
		packet->tcp_flags = tcp->flags;
		packet->header_bytes += (tcp->data_offset >> 4) * 4;
		return 0;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
		if ((void *)(ports + 1) > cursor->end)
			return -1;
		packet->key.ports_be = ports->ports_be;
		packet->header_bytes += sizeof(*ports);
		return 0;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		/* Type and code stand where other protocols have their source port. */
		if ((void *)(icmp + 1) > cursor->end)
			return -1;
		packet->key.ports_be = icmp->type_and_code_be;
		return 0;
	default:
		return 0;
	}
}

/*
 * Fills the key from a frame.  A frame that cannot be read any further is identified by what
 * was read: its ethertype, or its addresses and protocol.
 */
static __always_inline void parse_packet(struct cursor *cursor, struct packet *packet,
					 u32 link_bytes)
{
	bool has_ports = true;
	int ethertype_be, protocol = -1;

	ethertype_be =
		link_bytes ? parse_ethertype_be(cursor, packet) : parse_bare_ethertype_be(cursor);
	if (ethertype_be == BE16(ETH_P_IP))
		protocol = parse_ipv4(cursor, packet, &has_ports);
	else if (ethertype_be == BE16(ETH_P_IPV6))
		protocol = parse_ipv6(cursor, packet, &has_ports);
	if (protocol >= 0) {
		packet->key.protocol = protocol;
		if (has_ports && parse_ports(cursor, packet, protocol) < 0)
			packet->is_truncated = 1;
		return;
	}
	packet->is_truncated = ethertype_be < 0 || ethertype_be == BE16(ETH_P_IP) ||
			       ethertype_be == BE16(ETH_P_IPV6);
	if (ethertype_be >= 0 && BE16(ethertype_be) < ETH_P_802_3_MIN)
		ethertype_be = BE16(ETH_P_802_2);
	packet->key.ports_be = ethertype_be < 0 ? 0 : ethertype_be;
}
