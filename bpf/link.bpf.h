/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Layer 2: Ethernet, its tags, and links that have none. */
#pragma once

#include "dissection.bpf.h"

/* Tags inside the frame; the kernel may keep one more aside. */
#define TAGS_MAX 2
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
