/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Copy what a packet carries behind its headers into events of one size.
 *
 * An event does not fit on the stack.  In the ring buffer it is filled in place; for the perf
 * buffer it is filled in an array, by CPU.
 */
#pragma once

#include "maps.bpf.h"
#include "parse.h"

#if PERF_BUFFER
#define PAYLOAD_EVENTS(name, event)                                                                \
	EVENTS(name);                                                                              \
	BPF_TABLE_PINNED("array", u32, struct event, name##_drafts, CPUS, PRIVATE(#name "_drafts"))
#else
#define PAYLOAD_EVENTS(name, event) EVENTS(name)
#endif

/* What all events of this sort begin with.  A macro: the structs are different types. */
#define FILL_HEAD(event, packet)                                                                   \
	({                                                                                         \
		(event)->seen_ns = bpf_ktime_get_ns();                                             \
		(event)->src_addr[0] = (packet)->key.src_addr[0];                                  \
		(event)->src_addr[1] = (packet)->key.src_addr[1];                                  \
		(event)->dst_addr[0] = (packet)->key.dst_addr[0];                                  \
		(event)->dst_addr[1] = (packet)->key.dst_addr[1];                                  \
		(event)->src_port_be = (packet)->key.ports_be;                                     \
		(event)->dst_port_be = (packet)->key.ports_be >> 16;                               \
		(event)->lane = (packet)->key.lane;                                                \
	})

/* A super-packet has 64 KB, or more with BIG TCP; the verifier wants a bound. */
#define PAYLOAD_OFFSET_MASK 0x7ffff

/*
 * Copies at most most bytes at offset, size of which are there; most is a constant.  Returns how
 * many were copied.
 */
static __always_inline u64 copy_payload(void *ctx, const bool is_xdp, u64 offset, u64 size,
					void *into, const u64 most)
{
	struct xdp_md *xdp = ctx;

	if (size > most)
		size = most;
	/* Tested where the verifier can see it: kernels before 6.8 refuse a size that may be 0. */
	opaque(size);
	if (!size || size > most)
		return 0;
	if (!is_xdp)
		return bpf_skb_load_bytes(ctx, offset, into, size) == 0 ? size : 0;
	offset &= PAYLOAD_OFFSET_MASK;
	if (offset + size > (u64)xdp->data_end - xdp->data)
		return 0;
	return bpf_probe_read_kernel(into, size, (void *)(long)xdp->data + offset) == 0 ? size : 0;
}

/* Reads two bytes in network order; 0 where they are not there. */
static __always_inline u64 payload_u16(void *ctx, const bool is_xdp, u64 offset)
{
	u16 value_be = 0;

	copy_payload(ctx, is_xdp, offset, sizeof(value_be), &value_be, sizeof(value_be));
	return BE16(value_be);
}
