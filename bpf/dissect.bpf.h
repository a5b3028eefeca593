/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From the bytes of any frame to the identity of its flow: tags in tags, options, extension
 * headers, fragments, and packets in tunnels.
 *
 * One header is read a step, and everything known lives in a map.  The verifier does not follow
 * values through memory, so after each step all paths look alike to it: its work grows with the
 * number of steps, where registers would make it double with each.
 */
#pragma once

#include "fragments.bpf.h"
#include "frame.h"
#include "maps.bpf.h"

/* Tags inside the frame; the kernel may keep one more aside. */
#define TAGS_MAX 2
/* RFC 8200 section 4.1 orders six kinds of extension header, one of them twice. */
#define EXTENSIONS_MAX 8
/* More than that in front of the ports is an attack, not a packet. */
#define EXTENSIONS_BYTES_MAX 1024
/* Twice Ethernet, tags, IP, extension headers, ports and a look behind, and a tunnel's header. */
#define STEPS_MAX (2 * (1 + TAGS_MAX + 1 + EXTENSIONS_MAX + 2) + 1)

#define ICMP_BYTES	   4
#define ICMP_WITH_ID_BYTES 6

enum layer {
	LAYER_DONE,
	LAYER_ETHERNET,
	LAYER_TAG,
	LAYER_BARE,
	LAYER_IPV4,
	LAYER_IPV6,
	LAYER_EXTENSION,
	LAYER_TRANSPORT,
	LAYER_BEHIND_TRANSPORT,
	LAYER_GRE,
	LAYER_VXLAN,
	LAYER_GENEVE,
};

union header {
	struct ethernet_header ethernet;
	struct vlan_header vlan;
	struct ipv4_header ipv4;
	struct ipv6_header ipv6;
	struct ipv6_extension extension;
	struct tcp_header tcp;
	struct ports_header ports;
	struct icmp_header icmp;
	struct gre_header gre;
	struct vxlan_header vxlan;
	struct geneve_header geneve;
	u32 word_be;
};

/* What is known of a frame so far, and where reading goes on. */
struct dissection {
	struct packet packet; /* the one being read */
	struct packet outer;  /* the one around it, in a tunnel */
	struct packet inner;  /* kept while the outer one is booked */
	u64 layer;
	u64 offset;
	u64 end; /* of the frame, or of what an IP header says belongs to it */
	u64 point;
	u64 tags;	/* passed in this Ethernet header */
	u64 named_tags; /* whose ids are kept */
	u64 vlan;
	u64 inner_vlan;
	u64 is_super; /* of several segments, which repeat all headers */
	u64 is_ipv6;
	u64 extensions;
	u64 extensions_start;
	u64 is_first_fragment;
	u64 is_later_fragment;
	u64 is_unmatched;
	u64 tunnel;  /* that we are in, or try to enter */
	u64 is_open; /* whether there is a packet in it */
	u64 vni;
	struct fragment_key first_fragment;
	struct fragment_key later_fragment;
	union header header;
};

/* Key: CPU.  Programs of one CPU do not interrupt each other. */
BPF_TABLE_PINNED("array", u32, struct dissection, dissections, CPUS, PINS "/dissections");

/* The next header is not all there, or is none: what was read stands. */
static __always_inline void give_up(struct dissection *d)
{
	d->layer = LAYER_DONE;
	if (d->tunnel && !d->is_open) {
		d->packet = d->outer;
		d->tunnel = 0;
	}
	d->packet.is_truncated = 1;
}

static __always_inline bool read_header(void *ctx, const bool is_xdp, struct dissection *d,
					const u64 size)
{
	if (d->offset + size <= d->end && read_frame(ctx, is_xdp, d->offset, &d->header, size))
		return true;
	give_up(d);
	return false;
}

/* Ends with a packet that is not IP. */
static __always_inline void end_with_ethertype(struct dissection *d, u16 ethertype_be)
{
	d->packet.key.ports_be =
		BE16(ethertype_be) < ETH_P_802_3_MIN ? BE16(ETH_P_802_2) : ethertype_be;
	d->is_open = d->tunnel != 0;
	d->layer = LAYER_DONE;
}

static __always_inline void go_behind_ethertype(struct dissection *d, u16 ethertype_be)
{
	if (is_tag(ethertype_be) && d->tags < TAGS_MAX)
		d->layer = LAYER_TAG;
	else if (ethertype_be == BE16(ETH_P_IP))
		d->layer = LAYER_IPV4;
	else if (ethertype_be == BE16(ETH_P_IPV6))
		d->layer = LAYER_IPV6;
	else
		end_with_ethertype(d, ethertype_be);
}

static __always_inline void read_ethernet(void *ctx, const bool is_xdp, struct dissection *d)
{
	d->tags = 0;
	if (!read_header(ctx, is_xdp, d, sizeof(d->header.ethernet)))
		return;
	d->offset += sizeof(d->header.ethernet);
	go_behind_ethertype(d, d->header.ethernet.ethertype_be);
}

/* Tags of a frame in a tunnel are passed over: the columns are those of the wire. */
static __always_inline void read_tag(void *ctx, const bool is_xdp, struct dissection *d)
{
	u64 vlan;

	if (!read_header(ctx, is_xdp, d, sizeof(d->header.vlan)))
		return;
	vlan = BE16(d->header.vlan.tci_be) & VLAN_VID_MASK;
	if (!d->tunnel) {
		if (d->named_tags == 0)
			d->vlan = vlan;
		if (d->named_tags == 1)
			d->inner_vlan = vlan;
		d->named_tags++;
	}
	d->tags++;
	d->offset += sizeof(d->header.vlan);
	go_behind_ethertype(d, d->header.vlan.ethertype_be);
}

static __always_inline void read_bare(void *ctx, const bool is_xdp, struct dissection *d)
{
	if (!read_header(ctx, is_xdp, d, 1))
		return;
	d->layer = d->header.ipv4.version_ihl >> 4 == 6 ? LAYER_IPV6 : LAYER_IPV4;
}

/* The header says how long the packet is; frames may be padded. */
static __always_inline void end_packet_at(struct dissection *d, u64 end)
{
	if (end < d->end)
		d->end = end;
}

static __always_inline bool is_extension(u64 protocol, u64 is_ipv6)
{
	const u64 extensions = 1ULL << IPPROTO_HOPOPTS | 1ULL << IPPROTO_ROUTING |
			       1ULL << IPPROTO_FRAGMENT | 1ULL << IPPROTO_DSTOPTS;

	if (protocol == IPPROTO_AH)
		return true;
	return is_ipv6 && protocol < 64 && extensions >> protocol & 1;
}

static __always_inline void go_behind_protocol(struct dissection *d)
{
	d->layer = is_extension(d->packet.key.protocol, d->is_ipv6) ? LAYER_EXTENSION
								    : LAYER_TRANSPORT;
}

static __always_inline void fill_fragment(struct fragment_key *fragment, const struct dissection *d,
					  u32 id_be)
{
	__builtin_memset(fragment, 0, sizeof(*fragment));
	fragment->src_addr[0] = d->packet.key.src_addr[0];
	fragment->src_addr[1] = d->packet.key.src_addr[1];
	fragment->dst_addr[0] = d->packet.key.dst_addr[0];
	fragment->dst_addr[1] = d->packet.key.dst_addr[1];
	fragment->id_be = id_be;
	fragment->vni = d->vni;
	fragment->tunnel = d->tunnel;
	fragment->point = d->point;
	fragment->protocol = d->packet.key.protocol;
}

/* The outermost header of several tells what a first fragment is remembered by. */
static __always_inline void note_first_fragment(struct dissection *d, u32 id_be)
{
	if (d->is_first_fragment)
		return;
	d->is_first_fragment = 1;
	fill_fragment(&d->first_fragment, d, id_be);
}

/* Behind a later fragment's header there is nothing to read. */
static __always_inline void end_later_fragment(struct dissection *d, u32 id_be)
{
	fill_fragment(&d->later_fragment, d, id_be);
	d->is_later_fragment = 1;
	d->is_unmatched = !recall_ports(&d->later_fragment, &d->packet.key);
	d->layer = LAYER_DONE;
}

static __always_inline void note_fragment(struct dissection *d, u32 id_be, bool has_offset,
					  bool has_more)
{
	if (has_offset)
		end_later_fragment(d, id_be);
	else if (has_more)
		note_first_fragment(d, id_be);
}

static __always_inline void read_ipv4(void *ctx, const bool is_xdp, struct dissection *d)
{
	struct ipv4_header *ip = &d->header.ipv4;
	u64 header_bytes, is_cut_off, start = d->offset;
	u16 fragment_be;

	if (!d->tunnel)
		d->packet.key.ports_be = BE16(ETH_P_IP); /* where there is no more to tell */
	if (!read_header(ctx, is_xdp, d, sizeof(*ip)))
		return;
	header_bytes = (ip->version_ihl & 0x0f) * 4;
	is_cut_off = start + header_bytes > d->end;
	if (ip->version_ihl >> 4 != 4 || header_bytes < sizeof(*ip) || (is_cut_off && d->tunnel)) {
		give_up(d);
		return;
	}
	d->is_open = d->tunnel != 0;
	d->is_ipv6 = 0;
	d->extensions = 0;
	mapped_ipv4(d->packet.key.src_addr, ip->src_addr);
	mapped_ipv4(d->packet.key.dst_addr, ip->dst_addr);
	d->packet.key.ports_be = 0;
	d->packet.key.lane |= ip_lane(SHAPE_IPV4, ip->traffic_class);
	d->packet.key.protocol = ip->protocol;
	d->packet.hop_limit = ip->hop_limit;
	if (is_cut_off) {
		give_up(d);
		return;
	}
	d->offset += header_bytes;
	d->extensions_start = d->offset;
	if (BE16(ip->total_bytes_be) >= header_bytes)
		end_packet_at(d, start + BE16(ip->total_bytes_be));
	go_behind_protocol(d);
	fragment_be = ip->fragment_be;
	note_fragment(d, ip->id_be, fragment_be & BE16(IPV4_FRAGMENT_OFFSET),
		      fragment_be & BE16(IPV4_MORE_FRAGMENTS));
}

static __always_inline void read_ipv6(void *ctx, const bool is_xdp, struct dissection *d)
{
	struct ipv6_header *ip = &d->header.ipv6;

	if (!d->tunnel)
		d->packet.key.ports_be = BE16(ETH_P_IPV6);
	if (!read_header(ctx, is_xdp, d, sizeof(*ip)))
		return;
	if (*(u8 *)ip >> 4 != 6) {
		give_up(d);
		return;
	}
	d->is_open = d->tunnel != 0;
	d->is_ipv6 = 1;
	d->extensions = 0;
	d->packet.key.src_addr[0] = ip->src_addr[0];
	d->packet.key.src_addr[1] = ip->src_addr[1];
	d->packet.key.dst_addr[0] = ip->dst_addr[0];
	d->packet.key.dst_addr[1] = ip->dst_addr[1];
	d->packet.key.ports_be = 0;
	d->packet.key.lane |= ip_lane(SHAPE_IPV6, BE16(ip->version_class_be) >> 4 & 0xff);
	d->packet.key.protocol = ip->next_header;
	d->packet.hop_limit = ip->hop_limit;
	d->offset += sizeof(*ip);
	d->extensions_start = d->offset;
	if (ip->payload_bytes_be)
		end_packet_at(d, d->offset + BE16(ip->payload_bytes_be));
	go_behind_protocol(d);
}

/*
 * Counted in units of 8 bytes beside the first; AH (RFC 4302) in units of 4 beside two; and a
 * fragment header, which has a reserved byte for its length, is one unit.
 */
static __always_inline u64 extension_bytes(u64 kind, u64 length)
{
	if (kind == IPPROTO_AH)
		return (length + 2) * 4;
	return kind == IPPROTO_FRAGMENT ? 8 : (length + 1) * 8;
}

/* The protocol stays that of a header which cannot be passed. */
static __always_inline void read_extension(void *ctx, const bool is_xdp, struct dissection *d)
{
	struct ipv6_extension *extension = &d->header.extension;
	u64 kind = d->packet.key.protocol;
	u64 behind;

	if (d->extensions == EXTENSIONS_MAX) {
		d->layer = LAYER_DONE;
		return;
	}
	if (!read_header(ctx, is_xdp, d, sizeof(*extension)))
		return;
	behind = d->offset + extension_bytes(kind, extension->length);
	if (behind > d->end || behind - d->extensions_start > EXTENSIONS_BYTES_MAX) {
		give_up(d);
		return;
	}
	d->extensions++;
	d->offset = behind;
	d->packet.key.protocol = extension->next_header;
	go_behind_protocol(d);
	if (kind == IPPROTO_FRAGMENT)
		note_fragment(d, extension->id_be,
			      extension->fragment_be & BE16(IPV6_FRAGMENT_OFFSET),
			      extension->fragment_be & BE16(IPV6_MORE_FRAGMENTS));
}

/* Begins a packet anew; give_up() comes back from here until its header has been read. */
static __always_inline void enter_tunnel(struct dissection *d, u64 tunnel, u64 layer)
{
	d->outer = d->packet;
	d->tunnel = tunnel;
	d->is_open = 0;
	d->layer = layer;
	__builtin_memset(&d->packet.key, 0, sizeof(d->packet.key));
	note_payload(&d->packet, 0, 0);
	d->packet.tcp_flags = 0;
	d->packet.hop_limit = 0;
}

static __always_inline void remember_first_fragment(struct dissection *d)
{
	if (d->is_first_fragment)
		remember_ports(&d->first_fragment, &d->packet.key);
	d->is_first_fragment = 0;
}

/* A tunnel in a tunnel is not opened. */
static __always_inline void look_behind_transport(struct dissection *d)
{
	u16 port_be = d->packet.key.ports_be >> 16;
	u64 protocol = d->packet.key.protocol;

	d->layer = LAYER_DONE;
	remember_first_fragment(d);
	if (d->tunnel || (TUNNELS == TUNNELS_OUTER && !d->is_super))
		return;
	if (protocol == IPPROTO_IPIP)
		enter_tunnel(d, TUNNEL_IPIP, LAYER_IPV4);
	else if (protocol == IPPROTO_IPV6)
		enter_tunnel(d, TUNNEL_6IN4, LAYER_IPV6);
	else if (protocol == IPPROTO_GRE)
		d->layer = LAYER_GRE;
	else if (protocol == IPPROTO_UDP && IS_VXLAN_PORT(port_be))
		d->layer = LAYER_VXLAN;
	else if (protocol == IPPROTO_UDP && port_be == BE16(GENEVE_PORT))
		d->layer = LAYER_GENEVE;
}

static __always_inline void read_transport(void *ctx, const bool is_xdp, struct dissection *d)
{
	union header *header = &d->header;

	switch (d->packet.key.protocol) {
	case IPPROTO_TCP:
		if (!read_header(ctx, is_xdp, d, sizeof(header->tcp)))
			return;
		d->packet.key.ports_be = header->tcp.ports_be;
		note_payload(&d->packet, d->end, header->tcp.seq_be);
		d->packet.tcp_flags = header->tcp.flags;
		d->offset += (header->tcp.data_offset >> 4) * 4;
		break;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		if (!read_header(ctx, is_xdp, d, sizeof(header->ports)))
			return;
		d->packet.key.ports_be = header->ports.ports_be;
		note_payload(&d->packet, d->end, 0);
		d->offset += sizeof(header->ports);
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		header->icmp.id_be = 0; /* where it is cut off */
		if (d->offset + ICMP_WITH_ID_BYTES > d->end
			    ? !read_header(ctx, is_xdp, d, ICMP_BYTES)
			    : !read_header(ctx, is_xdp, d, ICMP_WITH_ID_BYTES))
			return;
		d->packet.key.ports_be = icmp_ports_be(&header->icmp, d->packet.key.protocol);
		break;
	}
	d->layer = LAYER_BEHIND_TRANSPORT;
}

static __always_inline void enter_by_ethertype(struct dissection *d, u64 tunnel, u16 ethertype_be)
{
	if (ethertype_be == BE16(ETH_P_TEB))
		enter_tunnel(d, tunnel, LAYER_ETHERNET);
	else if (ethertype_be == BE16(ETH_P_IP))
		enter_tunnel(d, tunnel, LAYER_IPV4);
	else if (ethertype_be == BE16(ETH_P_IPV6))
		enter_tunnel(d, tunnel, LAYER_IPV6);
}

static __always_inline void read_gre(void *ctx, const bool is_xdp, struct dissection *d)
{
	u16 flags, protocol_be;

	d->layer = LAYER_DONE;
	if (!read_header(ctx, is_xdp, d, sizeof(d->header.gre)))
		return;
	flags = BE16(d->header.gre.flags_be);
	protocol_be = d->header.gre.protocol_be;
	if (flags & (GRE_VERSION | GRE_ROUTING) ||
	    !(protocol_be == BE16(ETH_P_TEB) || protocol_be == BE16(ETH_P_IP) ||
	      protocol_be == BE16(ETH_P_IPV6)))
		return;
	d->offset += sizeof(d->header.gre);
	if (flags & GRE_CHECKSUM)
		d->offset += 4;
	if (flags & GRE_KEY) {
		if (!read_header(ctx, is_xdp, d, 4))
			return;
		d->vni = BE32(d->header.word_be);
		d->offset += 4;
	}
	if (flags & GRE_SEQUENCE)
		d->offset += 4;
	enter_by_ethertype(d, TUNNEL_GRE, protocol_be);
}

static __always_inline void read_vxlan(void *ctx, const bool is_xdp, struct dissection *d)
{
	d->layer = LAYER_DONE;
	if (!read_header(ctx, is_xdp, d, sizeof(d->header.vxlan)))
		return;
	if (!(d->header.vxlan.flags & VXLAN_VNI_VALID))
		return;
	d->vni = BE32(d->header.vxlan.vni_be) >> 8;
	d->offset += sizeof(d->header.vxlan);
	enter_tunnel(d, TUNNEL_VXLAN, LAYER_ETHERNET);
}

static __always_inline void read_geneve(void *ctx, const bool is_xdp, struct dissection *d)
{
	d->layer = LAYER_DONE;
	if (!read_header(ctx, is_xdp, d, sizeof(d->header.geneve)))
		return;
	if (d->header.geneve.version_and_words & GENEVE_VERSION)
		return;
	d->vni = BE32(d->header.geneve.vni_be) >> 8;
	d->offset += sizeof(d->header.geneve) +
		     (d->header.geneve.version_and_words & GENEVE_OPT_WORDS) * 4;
	enter_by_ethertype(d, TUNNEL_GENEVE, d->header.geneve.protocol_be);
}

static __always_inline void read_layer(void *ctx, const bool is_xdp, struct dissection *d)
{
	switch (d->layer) {
	case LAYER_ETHERNET:
		read_ethernet(ctx, is_xdp, d);
		break;
	case LAYER_TAG:
		read_tag(ctx, is_xdp, d);
		break;
	case LAYER_BARE:
		read_bare(ctx, is_xdp, d);
		break;
	case LAYER_IPV4:
		read_ipv4(ctx, is_xdp, d);
		break;
	case LAYER_IPV6:
		read_ipv6(ctx, is_xdp, d);
		break;
	case LAYER_EXTENSION:
		read_extension(ctx, is_xdp, d);
		break;
	case LAYER_TRANSPORT:
		read_transport(ctx, is_xdp, d);
		break;
	case LAYER_BEHIND_TRANSPORT:
		look_behind_transport(d);
		break;
	case LAYER_GRE:
		read_gre(ctx, is_xdp, d);
		break;
	case LAYER_VXLAN:
		read_vxlan(ctx, is_xdp, d);
		break;
	case LAYER_GENEVE:
		read_geneve(ctx, is_xdp, d);
		break;
	default:
		d->layer = LAYER_DONE;
	}
}

/* Reads the whole frame; d holds its length, where to begin, and the tag kept aside. */
static __always_inline void dissect(void *ctx, const bool is_xdp, struct dissection *d)
{
#pragma clang loop unroll(disable)
	for (int step = 0; step < STEPS_MAX; step++) {
		if (d->layer == LAYER_DONE)
			break;
		read_layer(ctx, is_xdp, d);
	}
	remember_first_fragment(d);
	d->packet.header_bytes = d->offset;
}
