/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Account every packet to its flow.
 *
 *  1. The interface's entry says which hook point this is.  Its totals count the packet, whatever
 *     becomes of it (book.bpf.h).
 *  2. What nearly all packets are, TCP or UDP over IPv4, goes a short way: known.bpf.h reads, finds
 *     and counts it at once.  All others go on here.
 *  3. parse.h reads the identity of a plain packet.  Any other goes on in a program of its own,
 *     which dissects it from the beginning (unusual.bpf.h, dissect.bpf.h).
 *  4. The flow cache counts it (cache.bpf.h).  No helper is called on this path: array lookups,
 *     jiffies and the CPU's number are inlined by the verifier, which is why this costs a third of
 *     a hash map.
 *  5. The first packet of a flow, and one packet in SAMPLE_ONE_IN, go through a ring buffer with
 *     their headers (sample.bpf.h).
 *  6. Where there are rules, they say whether it goes further (rules.bpf.h).
 *
 * bcc rewrites map accesses in its main file only.  So the loader puts every *.bpf.h in place of
 * the line that includes it; other headers hold plain functions.  It compiles the configuration
 * in: PINS (where it pins maps, see share.bpf.h), CPUS, SLOTS_PER_CPU (a power of two), HOOK_POINTS,
 * INTERFACE_SLOTS (a power of two), RING_PAGES, SAMPLE_ONE_IN (0: none), SAMPLE_FIRST (0 or 1),
 * PERF_BUFFER (where the kernel has no ring buffer), CONTEXTS_PER_CPU (a power of two), TUNNELS,
 * IS_VXLAN_PORT(port_be), DNS and TLS (0 or 1: whether names are wanted), IS_DNS_PORT(port_be),
 * LIMITED_SOURCES (limits.bpf.h), REPLAY and REPLAY_TICK_NS (replay.bpf.h), and the hash key SEED_0 to
 * SEED_10 (seed.h).  Only while somebody captures, also CAPTURES and what capture.bpf.h wants.
 */
#include "events.h"
#include "parse.h"

#include "maps.bpf.h"
#include "replay.bpf.h"
#include "book.bpf.h"
#include "known.bpf.h"
#include "names.bpf.h"
#include "rules.bpf.h"
#include "unusual.bpf.h"

#define TC_ACT_UNSPEC (-1) /* let the next program decide; also tcx's TCX_NEXT */
#define TC_ACT_SHOT   2	   /* also tcx's TCX_DROP */

/* Spreads indexes over the table's second places; also in agent/entries.py. */
#define SPREAD 0x9e3779b1U

/* What the agent has told us of an interface. */
struct interface {
	u64 points; /* ingress in the lower half of 32 bits, egress in the upper */
	u64 link_bytes;
};

/* Reads the entry at one place of the table.  Returns whether it is that of the index. */
static __always_inline bool read_entry(struct interface *interface, u32 place, u32 ifindex)
{
	struct interface_entry *entry = interfaces.lookup(&place);
	u64 index_and_points;

	if (!entry)
		return false;
	/* One word, read at once. */
	index_and_points = *(volatile u64_of_fields *)entry;
	interface->points = index_and_points >> 32;
	interface->link_bytes = entry->link_bytes;
	return (u32)index_and_points == ifindex;
}

/* Point 0 and Ethernet where the agent has told us nothing. */
static __always_inline struct interface interface_of(u32 ifindex)
{
	struct interface interface;

	if (read_entry(&interface, ifindex & (INTERFACE_SLOTS - 1), ifindex) ||
	    read_entry(&interface, (u64)(u32)(ifindex * SPREAD) * INTERFACE_SLOTS >> 32, ifindex))
		return interface;
	return (struct interface){.link_bytes = sizeof(struct ethernet_header)};
}

static __always_inline u64 point_of_skb(const struct __sk_buff *skb,
					const struct interface *interface, const bool is_egress)
{
#if REPLAY
	return skb->mark;
#else
	return is_egress ? interface->points >> 16 : interface->points & 0xffff;
#endif
}

static __always_inline void frame_from_skb(struct frame *frame, struct __sk_buff *skb,
					   const bool is_egress)
{
	frame->direction = is_egress ? DIRECTION_EGRESS : DIRECTION_INGRESS;
	frame->bytes = frame->wire_bytes = skb->len;
	/* Multiplied with 0 or 1: a branch would double the verifier's states. */
	frame->has_aside_tag = skb->vlan_present;
	frame->aside_vlan = frame->has_aside_tag * skb->vlan_tci & VLAN_VID_MASK;
	frame->segment_bytes = skb->gso_size;
	frame->segments = skb->gso_segs;
#if REPLAY
	set_capture_clock(skb);
	frame->link_bytes = skb->cb[0];
	frame->wire_bytes = skb->priority;
#endif
}

/* A jumbo frame may have parts outside of data; headers are before them. */
static __always_inline u64 xdp_bytes(struct xdp_md *xdp, const bool is_jumbo)
{
	return is_jumbo ? bpf_xdp_get_buff_len(xdp) : (u64)xdp->data_end - xdp->data;
}

static __always_inline void frame_from_xdp(struct frame *frame, struct xdp_md *xdp,
					   const bool is_jumbo)
{
	frame->direction = DIRECTION_INGRESS;
	frame->bytes = frame->wire_bytes = xdp_bytes(xdp, is_jumbo);
	frame->is_jumbo = is_jumbo;
}

/* Goes on with the frame in the program that reads any; comes back only where there is none. */
static __always_inline void go_on_unusual(void *ctx, const bool is_xdp, const struct frame *frame)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct frame *kept = frames.lookup(&cpu);

	if (!kept)
		return;
	*kept = *frame;
	if (is_xdp)
		xdp_tails.call(ctx, TAIL_XDP);
	else
		tc_tails.call(ctx, TAIL_TC);
}

/* A packet of which nothing was read but what the frame itself tells. */
static __always_inline struct packet unread(const struct frame *frame)
{
	struct packet packet = {.segments = 1};

	packet.tag_bytes = frame->has_aside_tag * VLAN_TAG_BYTES;
	packet.bytes = frame->wire_bytes + packet.tag_bytes;
	packet.min_bytes = packet.max_bytes = packet.bytes;
	packet.key.lane = frame->aside_vlan << LANE_VLAN_SHIFT;
	return packet;
}

/* Books and judges the packet if it is a plain one.  Returns whether it goes no further. */
static __always_inline bool account_frame(void *ctx, const bool is_xdp, const struct frame *frame,
					  struct cursor *cursor, struct hook_totals *books, u64 cpu)
{
	struct packet packet = unread(frame);

	if (!parse_plain(cursor, &packet, frame->link_bytes, frame->segment_bytes)) {
		go_on_unusual(ctx, is_xdp, frame);
		/* All of it anew: so nothing that was read before need be kept for here. */
		packet = unread(frame);
		packet.is_truncated = 1;
	}
#if CAPTURES
	capture_plain(ctx, is_xdp, frame, &packet);
#endif
	count_segments(&packet, frame->segment_bytes, frame->segments);
	book(ctx, is_xdp, books, &packet, cpu, frame->point);
	if (judge(ctx, is_xdp, books, &packet, packet.key.lane, cpu))
		return true;
	name_packet(ctx, is_xdp, &packet, cpu);
	return false;
}

static __always_inline bool account_skb(struct __sk_buff *skb, const bool is_egress)
{
	struct cursor cursor = {(void *)(long)skb->data, (void *)(long)skb->data_end};
	struct interface interface = interface_of(skb->ifindex);
	struct frame frame = {.point = point_of_skb(skb, &interface, is_egress),
			      .link_bytes = interface.link_bytes};
	u64 cpu = bpf_get_smp_processor_id();
	struct hook_totals *books = books_at(cpu, frame.point);

	if (!books)
		return false;
	if (HAS_SHORT_WAY && !skb->gso_size && !skb->vlan_present &&
	    count_known(skb, false, &cursor, books, &frame, cpu, skb->len))
		return false;
	frame_from_skb(&frame, skb, is_egress);
	return account_frame(skb, false, &frame, &cursor, books, cpu);
}

static __always_inline bool account_xdp(struct xdp_md *xdp, const bool is_jumbo)
{
	struct cursor cursor = {(void *)(long)xdp->data, (void *)(long)xdp->data_end};
	struct interface interface = interface_of(xdp->ingress_ifindex);
	struct frame frame = {.point = interface.points & 0xffff,
			      .link_bytes = interface.link_bytes};
	u64 cpu = bpf_get_smp_processor_id();
	struct hook_totals *books = books_at(cpu, frame.point);

	if (!books)
		return false;
	if (HAS_SHORT_WAY &&
	    count_known(xdp, true, &cursor, books, &frame, cpu, xdp_bytes(xdp, is_jumbo)))
		return false;
	frame_from_xdp(&frame, xdp, is_jumbo);
	return account_frame(xdp, true, &frame, &cursor, books, cpu);
}

int hook_xdp(struct xdp_md *ctx)
{
	return account_xdp(ctx, false) ? XDP_DROP : XDP_PASS;
}

/* Loaded where an interface's frames do not fit into one buffer, from Linux 5.18 on. */
int hook_xdp_jumbo(struct xdp_md *ctx)
{
	return account_xdp(ctx, true) ? XDP_DROP : XDP_PASS;
}

int hook_ingress(struct __sk_buff *skb)
{
	return account_skb(skb, false) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

int hook_egress(struct __sk_buff *skb)
{
	return account_skb(skb, true) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

int unusual_xdp(struct xdp_md *ctx)
{
	account_unusual(ctx, true);
	return XDP_PASS;
}

int unusual_tc(struct __sk_buff *skb)
{
	account_unusual(skb, false);
	return TC_ACT_UNSPEC;
}

int rules_xdp(struct xdp_md *ctx)
{
	return apply_rules(ctx, true) ? XDP_DROP : XDP_PASS;
}

int rules_tc(struct __sk_buff *skb)
{
	return apply_rules(skb, false) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

#if NAMES
int names_xdp(struct xdp_md *ctx)
{
	copy_names(ctx, true, xdp_bytes(ctx, false), 0);
	return XDP_PASS;
}

int names_xdp_jumbo(struct xdp_md *ctx)
{
	copy_names(ctx, true, xdp_bytes(ctx, true), 0);
	return XDP_PASS;
}

int names_tc(struct __sk_buff *skb)
{
	copy_names(skb, false, skb->len, skb->gso_size);
	return TC_ACT_UNSPEC;
}
#endif

/* Attached nowhere: the agent runs it to learn which jiffies go with which nanoseconds. */
int hook_clock(struct __sk_buff *skb)
{
	struct agent_clock *clock = the_clock();

	clock->jiffies = bpf_jiffies64();
	clock->monotonic_ns = bpf_ktime_get_ns();
	return 0;
}
