/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The maps of the programs that see packets. */
#pragma once

#include "events.h"
#include "frame.h"
#include "share.bpf.h"

enum xdp_tail { TAIL_XDP, TAIL_XDP_RULES, TAIL_XDP_NAMES };
enum tc_tail { TAIL_TC, TAIL_TC_RULES, TAIL_TC_NAMES };

/* Which packet of a tunnel rows tell of. */
#define TUNNELS_OUTER 0
#define TUNNELS_INNER 1
#define TUNNELS_BOTH  2

/* Key: CPU, whose programs do not interrupt each other.  A frame that goes on in another one. */
BPF_TABLE_PINNED("array", u32, struct frame, frames, CPUS, PRIVATE("frames"));
/* Where a flow may be; the agent knows slots only. */
#define WAYS	     4
#define SETS_PER_CPU (SLOTS_PER_CPU / WAYS)
struct flow_set {
	struct flow_slot slots[WAYS];
};

/*
 * Key: CPU * SETS_PER_CPU + set: one lookup finds all slots that a flow may have.  We write; the
 * agent maps it to read; nothing is deleted.
 */
SHARED_ARRAY(flow_slots, struct flow_set, CPUS *SETS_PER_CPU);
/* Key: CPU * SLOTS_PER_CPU + slot.  Apart from the slot because it is written once an interval, not per packet. */
SHARED_ARRAY(flow_origins, struct flow_origin, CPUS *SLOTS_PER_CPU);
/* Key: CPU * CONTEXTS_PER_CPU + entry.  We write, once; the agent maps it; nothing is deleted. */
SHARED_ARRAY(contexts, struct flow_context, CPUS *CONTEXTS_PER_CPU);
/* Key: CPU * HOOK_POINTS + hook point.  Point 0 books what met no known interface. */
SHARED_ARRAY(totals, struct hook_totals, CPUS *HOOK_POINTS);
/* Key: one of two places of an ifindex, see interface_of.  The agent writes, before it attaches. */
SHARED_ARRAY(interfaces, struct interface_entry, INTERFACE_SLOTS);
/* One entry: hook_clock writes the readings, the agent writes interval_jiffies. */
SHARED_ARRAY(agent_clock, struct agent_clock, 1);

/*
 * The value of an array of one element.  A lookup of it takes a dozen instructions, inlined as it is;
 * but its address is known when a program is loaded (since Linux v5.2).  So what bcc calls for the
 * lookup yields the map alone here, and agent/images.py says that its value is meant.  Whoever looks
 * up such a map in another way is refused by the verifier.
 */
#define bpf_map_lookup_elem(map, key) (map)
static __always_inline struct agent_clock *the_clock(void)
{
	u32 zero = 0;

	return agent_clock.lookup(&zero);
}
#undef bpf_map_lookup_elem

/*
 * The programs that hooks go on in.  The loader writes.  Each compilation has its own, and each type
 * of program, as the kernel wants it.
 */
BPF_TABLE_PINNED("prog", u32, u32, xdp_tails, 3, PRIVATE("xdp_tails"));
BPF_TABLE_PINNED("prog", u32, u32, tc_tails, 3, PRIVATE("tc_tails"));

EVENTS(evictions);
EVENTS(packets);
