/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Layer 4: ports, flags and ids; and what comes behind, if that is a tunnel. */
#pragma once

#include "dissection.bpf.h"
#include "tunnels.bpf.h"

#define ICMP_BYTES	   4
#define ICMP_WITH_ID_BYTES 6

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
