/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Numbers and headers of the protocols that we read, as the wire has them. */
#pragma once

#include "events.h"

#define BE16(x) ((u16)__builtin_bswap16(x))
#define BE32(x) ((u32)__builtin_bswap32(x))

/* IEEE 802 numbers, as linux/if_ether.h names them. */
#define ETH_P_802_2	0x0004
#define ETH_P_802_3_MIN 0x0600
#define ETH_P_IP	0x0800
#define ETH_P_TEB	0x6558 /* transparent Ethernet bridging: a frame in a tunnel */
#define ETH_P_IPV6	0x86dd
#define ETH_P_8021Q	0x8100
#define ETH_P_8021AD	0x88a8
#define ETH_P_QINQ1	0x9100
#define VLAN_VID_MASK	0x0fff

/* IANA protocol numbers. */
#define IPPROTO_HOPOPTS	 0
#define IPPROTO_ICMP	 1
#define IPPROTO_IPIP	 4
#define IPPROTO_TCP	 6
#define IPPROTO_UDP	 17
#define IPPROTO_DCCP	 33
#define IPPROTO_IPV6	 41
#define IPPROTO_ROUTING	 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_GRE	 47
#define IPPROTO_AH	 51
#define IPPROTO_ICMPV6	 58
#define IPPROTO_DSTOPTS	 60
#define IPPROTO_SCTP	 132
#define IPPROTO_UDPLITE	 136

#define IPV4_MORE_FRAGMENTS  0x2000
#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPV6_MORE_FRAGMENTS  0x0001
#define IPV6_FRAGMENT_OFFSET 0xfff8

#define ICMP_ECHO_REPLY	    0
#define ICMP_ECHO_REQUEST   8
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY   129

#define GENEVE_PORT	 6081
#define GRE_CHECKSUM	 0x8000
#define GRE_ROUTING	 0x4000
#define GRE_KEY		 0x2000
#define GRE_SEQUENCE	 0x1000
#define GRE_VERSION	 0x0007
#define VXLAN_VNI_VALID	 0x08
#define GENEVE_VERSION	 0xc0
#define GENEVE_OPT_WORDS 0x3f

struct ethernet_header {
	u8 dst[6];
	u8 src[6];
	u16 ethertype_be;
} __attribute__((packed, aligned(2)));

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

/* Any extension header; the last two fields are those of a fragment header. */
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

/* The beginning of UDP, UDP-Lite, SCTP and DCCP alike. */
struct ports_header {
	u32 ports_be;
	u32 other;
};

struct icmp_header {
	u16 type_and_code_be;
	u16 checksum_be;
	u16 id_be; /* of an echo */
	u16 sequence_be;
};

/* RFC 2784 and 2890; checksum, key and sequence number follow where the flags say so. */
struct gre_header {
	u16 flags_be;
	u16 protocol_be; /* an ethertype */
};

/* RFC 7348. */
struct vxlan_header {
	u8 flags;
	u8 reserved[3];
	u32 vni_be; /* upper 24 bits */
};

/* RFC 8926; options follow. */
struct geneve_header {
	u8 version_and_words;
	u8 flags;
	u16 protocol_be; /* an ethertype */
	u32 vni_be;	 /* upper 24 bits */
};
