/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From the bytes of any frame to the identity of its flow: tags in tags, options, extension
 * headers, fragments, and packets in tunnels.  One header is read a step.
 */
#pragma once

#include "dissection.bpf.h"
#include "link.bpf.h"
#include "network.bpf.h"
#include "transport.bpf.h"
#include "tunnels.bpf.h"

/* Twice Ethernet, tags, IP, extension headers, ports and a look behind, and a tunnel's header. */
#define STEPS_MAX (2 * (1 + TAGS_MAX + 1 + EXTENSIONS_MAX + 2) + 1)

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
