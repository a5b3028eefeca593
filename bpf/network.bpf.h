/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Layer 3: IPv4 with options, IPv6 and AH with extension headers, and fragments of both. */
#pragma once

#include "dissection.bpf.h"

/* RFC 8200 section 4.1 orders six kinds of extension header, one of them twice. */
#define EXTENSIONS_MAX 8
/* More than that in front of the ports is an attack, not a packet. */
#define EXTENSIONS_BYTES_MAX 1024
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
