/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Read a frame at any byte, whichever hook it came through.
 *
 * tc reads through a helper, which also finds what lies outside the linear part.  XDP reads the
 * packet's own memory.  is_xdp is known when this is compiled, so the other half is not there.
 */
#pragma once

#include "parse.h"

/* Nothing that we read starts behind this: the verifier wants a bound. */
#define READABLE_BYTES 0xfff

/* Copies size bytes at offset.  Returns whether the frame has them. */
static __always_inline bool read_frame(void *ctx, const bool is_xdp, u64 offset, void *into,
				       const u64 size)
{
	struct xdp_md *xdp = ctx;
	void *data, *end;

	if (offset > READABLE_BYTES)
		return false;
	if (!is_xdp)
		return bpf_skb_load_bytes(ctx, offset, into, size) == 0;
	data = (void *)(long)xdp->data;
	end = (void *)(long)xdp->data_end;
	/* Masked where it is used: what the compiler knew of it may be in another register. */
	offset &= READABLE_BYTES;
	opaque(offset);
	offset &= READABLE_BYTES;
	data += offset;
	if (data + size > end)
		return false;
	__builtin_memcpy(into, data, size);
	return true;
}
