/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Read a frame at any byte, whichever hook it came through.
 *
 * Both hooks read the packet's own memory.  At tc a helper finds what lies outside the linear part;
 * it knows all of it, and costs four times as much.  is_xdp is known when this is compiled, so the
 * other half is not there.
 */
#pragma once

#include "parse.h"

/* Where and how a frame is to be read. */
struct frame {
	u64 point;
	u64 direction;
	u64 bytes;	/* in memory */
	u64 wire_bytes; /* the same, but of a packet of a capture what it had on the wire */
	u64 is_jumbo;	/* of XDP: parts of it may lie elsewhere */
	u64 link_bytes;
	u64 has_aside_tag;
	u64 aside_vlan;
	u64 segment_bytes; /* of a super-packet */
	u64 segments;
};

/* Nothing that we read starts behind this: the verifier wants a bound. */
#define READABLE_BYTES 0xfff

/* Copies size bytes at offset.  Returns whether the frame has them. */
static __always_inline bool read_frame(void *ctx, const bool is_xdp, u64 offset, void *into,
				       const u64 size)
{
	struct __sk_buff *skb = ctx;
	struct xdp_md *xdp = ctx;
	void *data = (void *)(long)(is_xdp ? xdp->data : skb->data);
	void *end = (void *)(long)(is_xdp ? xdp->data_end : skb->data_end);
	u64 bounded = offset & READABLE_BYTES;

	if (offset > READABLE_BYTES)
		return false;
	/* Masked again where it is used: what the compiler knew of it may be in another register. */
	opaque(bounded);
	bounded &= READABLE_BYTES;
	data += bounded;
	if (data + size <= end) {
		__builtin_memcpy(into, data, size);
		return true;
	}
	return !is_xdp && bpf_skb_load_bytes(ctx, offset, into, size) == 0;
}
