/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Ports of later fragments: only the first fragment of a packet has them, so they are remembered
 * until newer ones need the room.
 */
#pragma once

#include "maps.bpf.h"
#include "parse.h"

#define FRAGMENTS_MAX 4096

/* RFC 791 and RFC 8200 section 4.5: what the fragments of one packet have in common. */
struct fragment_key {
	u64 src_addr[2];
	u64 dst_addr[2];
	u32 id_be;
	u32 vni;
	u16 point;
	u8 protocol; /* of the fragment's own header */
	u8 tunnel;
	u32 padding;
};

struct fragment_ports {
	u32 ports_be;
	u32 protocol; /* behind any further headers */
};

/* We write, and the least recently used entry makes room. */
BPF_TABLE_PINNED("lru_hash", struct fragment_key, struct fragment_ports, fragments, FRAGMENTS_MAX,
		 PRIVATE("fragments"));

static __always_inline void remember_ports(struct fragment_key *fragment,
					   const struct flow_key *key)
{
	struct fragment_ports ports = {.ports_be = key->ports_be, .protocol = key->protocol};

	fragments.update(fragment, &ports);
}

/* Fills in what the first fragment had.  Returns whether that is known. */
static __always_inline bool recall_ports(struct fragment_key *fragment, struct flow_key *key)
{
	struct fragment_ports *ports = fragments.lookup(fragment);

	if (!ports)
		return false;
	key->ports_be = ports->ports_be;
	key->protocol = ports->protocol;
	return true;
}
