/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What is known of a frame while its headers are read, one a step.
 *
 * All of it lives in a map.  The verifier does not follow values through memory, so after each step
 * all paths look alike to it: its work grows with the number of steps, where registers would make
 * it double with each.
 */
#pragma once

#include "fragments.bpf.h"
#include "frame.h"
#include "maps.bpf.h"

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
BPF_TABLE_PINNED("array", u32, struct dissection, dissections, CPUS, PRIVATE("dissections"));

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
