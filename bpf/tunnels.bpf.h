/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Headers of tunnels, and the way into them: IP in IP, GRE, VXLAN, GENEVE. */
#pragma once

#include "dissection.bpf.h"

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
