/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Packets of a capture, where REPLAY is set.
 *
 * They come in test runs, and their context tells what no interface can tell of them: `tstamp` when
 * each was captured, `mark` its hook point, `priority` its length on the wire (`wire_len` ends at
 * 64 KiB) and `cb[0]` the length of its link header.  All clocks stand at that time, and there is
 * one CPU: packets come one after another, wherever they run.
 */
#pragma once

#include "maps.bpf.h"

#if REPLAY
static __always_inline u64 capture_ns(void)
{
	return the_clock()->monotonic_ns;
}

static __always_inline void set_capture_clock(const struct __sk_buff *skb)
{
	the_clock()->monotonic_ns = skb->tstamp;
}

#define bpf_ktime_get_ns()	   capture_ns()
#define bpf_jiffies64()		   (capture_ns() / REPLAY_TICK_NS)
#define bpf_get_smp_processor_id() 0
#endif
