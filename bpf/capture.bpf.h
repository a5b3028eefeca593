/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Capture: packets that a filter means go to `hookline capture`, as they are.
 *
 * The programs that run while nobody captures have none of this.  A capture compiles a variant of
 * the same programs, which shares their maps, and puts it in their place.
 *
 *  1. The packet's identity is spread into columns, named and valued as in a row of `flows`.
 *  2. CAPTURE_WANTED, a filter in C, says which of the running captures want it, as a mask.
 *  3. Its bytes are copied once, to the CPU's scratch space, and a VLAN tag that the kernel keeps
 *     aside goes back to its place.
 *  4. They go to the ring buffer of each capture that wants them, cut to its length.
 *
 * The loader compiles in: CAPTURES, a mask of the slots in use, CAPTURE_SNAPLEN(slot),
 * CAPTURE_LONGEST, the largest of those, and CAPTURE_WANTED(packet), which is made of the functions
 * below.
 */
#pragma once

#include "dissect.bpf.h"
#include "frame.h"
#include "maps.bpf.h"

#undef bpf_probe_read_kernel /* see sample.bpf.h */

/* Both addresses of an Ethernet frame: what stands before a tag. */
#define MAC_BYTES 12

struct columns {
	u64 src_addr[2];
	u64 dst_addr[2];
	u64 src_port;
	u64 dst_port;
	u64 protocol;
	u64 ethertype;
	u64 vlan;
	u64 dscp;
	u64 icmp_type;
	u64 icmp_code;
	u64 icmp_id;
	u64 tcp_flags;
	u64 inner_vlan;
	u64 tunnel;
	u64 outer_src_addr[2];
	u64 outer_dst_addr[2];
	u64 vni;
	u64 direction;
	u64 point;
};

/* The columns lie here too, as a filter needs what there is of the stack. */
struct capture_scratch {
	struct columns columns;
	struct captured_frame frame;
	u8 bytes[CAPTURE_LONGEST];
};

/* What the elements of the next one are like; never used. */
struct capture_ring_table_t {
	int key;
	u32 leaf;
	u32 max_entries;
};
__attribute__((section("maps/ringbuf"))) struct capture_ring_table_t capture_ring = {
	.max_entries = PAGE_SIZE};
struct capture_rings_table_t {
	int key;
	u32 leaf;
	void *(*lookup)(int *);
	u32 max_entries;
};
/* Key: slot.  The agent makes it, and puts a capture's ring buffer in before the programs run. */
__attribute__((section("maps/array_of_maps$capture_ring:" PINS
		       "/capture_rings"))) struct capture_rings_table_t capture_rings = {
	.max_entries = CAPTURE_SLOTS};
/* Key: (slot * CPUS + CPU) * HOOK_POINTS + hook point.  We write; the agent zeroes a free slot. */
SHARED_ARRAY(capture_books, struct capture_books, CAPTURE_SLOTS *CPUS *HOOK_POINTS);
/* Key: CPU.  Each compilation has its own.  A per-CPU array holds no element as large. */
BPF_F_TABLE("array:" PINS "/capture_scratch", u32, struct capture_scratch, capture_scratch, CPUS,
	    0);

/*
 * The words of filters.  Each is 0 or 1, by arithmetic: a branch each would double the verifier's
 * states each time.  The value is made opaque so that clang computes what repeats again, rather
 * than keep it on the stack.
 */
static __always_inline u64 between(u64 value, u64 first, u64 last)
{
	u64 outside;

	opaque(value);
	outside = (value - first) | (last - value);
	opaque(outside);
	return outside >> 63 ^ 1;
}

static __always_inline u64 within(const u64 *address, u64 mask_0, u64 first_0, u64 mask_1,
				  u64 first_1)
{
	u64 high = address[0], low = address[1], differs;

	opaque(high);
	opaque(low);
	differs = ((high ^ first_0) & mask_0) | ((low ^ first_1) & mask_1);
	differs |= -differs;
	opaque(differs);
	return differs >> 63 ^ 1;
}

static __always_inline u64 has_bits(u64 value, u64 bits)
{
	return between(value & bits, 1, bits);
}

/* Spreads what every packet has; its lane must still tell VLAN and DSCP. */
static __always_inline void spread(struct columns *columns, const struct packet *packet)
{
	const struct flow_key *key = &packet->key;
	u64 shape = key->lane >> LANE_SHAPE_SHIFT & LANE_SHAPE_MASK;
	u64 is_other = between(shape, SHAPE_OTHER, SHAPE_OTHER);
	u64 is_ipv4 = between(shape, SHAPE_IPV4, SHAPE_IPV4);
	u64 is_ipv6 = between(shape, SHAPE_IPV6, SHAPE_IPV6);
	u64 is_icmp = between(key->protocol, IPPROTO_ICMP, IPPROTO_ICMP) |
		      between(key->protocol, IPPROTO_ICMPV6, IPPROTO_ICMPV6);
	/* What stands in the ports' places, as columns.py reads it. */
	u64 first = BE16(key->ports_be), second = BE16(key->ports_be >> 16);

	columns->src_addr[0] = key->src_addr[0];
	columns->src_addr[1] = key->src_addr[1];
	columns->dst_addr[0] = key->dst_addr[0];
	columns->dst_addr[1] = key->dst_addr[1];
	columns->src_port = first * ((is_other | is_icmp) ^ 1);
	columns->dst_port = second * (is_icmp ^ 1);
	columns->protocol = key->protocol;
	columns->ethertype = is_other * first + is_ipv4 * ETH_P_IP + is_ipv6 * ETH_P_IPV6;
	columns->vlan = key->lane >> LANE_VLAN_SHIFT & LANE_VLAN_MASK;
	columns->dscp = key->lane >> LANE_DSCP_SHIFT & LANE_DSCP_MASK;
	columns->icmp_type = is_icmp * (first >> 8);
	columns->icmp_code = is_icmp * (first & 0xff);
	columns->icmp_id = is_icmp * second;
	columns->tcp_flags = packet->tcp_flags;
	columns->inner_vlan = 0;
	columns->tunnel = 0;
	columns->outer_src_addr[0] = columns->outer_src_addr[1] = 0;
	columns->outer_dst_addr[0] = columns->outer_dst_addr[1] = 0;
	columns->vni = 0;
}

/* Spreads what a dissected packet has beside that, which is in its tunnel or is not. */
static __always_inline void spread_around(struct columns *columns, const struct dissection *d,
					  u64 is_inside)
{
	columns->vlan = d->vlan;
	columns->inner_vlan = d->inner_vlan;
	if (!is_inside)
		return;
	columns->tunnel = d->tunnel;
	columns->outer_src_addr[0] = d->outer.key.src_addr[0];
	columns->outer_src_addr[1] = d->outer.key.src_addr[1];
	columns->outer_dst_addr[0] = d->outer.key.dst_addr[0];
	columns->outer_dst_addr[1] = d->outer.key.dst_addr[1];
	columns->vni = d->vni;
}

static __always_inline struct capture_books *books_of_capture(int slot, u32 cpu, u64 point)
{
	u32 index = (slot * CPUS + cpu) * HOOK_POINTS + point;

	return capture_books.lookup(&index);
}

/* Calls for every slot in use; a loop over an address taken is one that clang does not unroll. */
#define FOR_EACH_CAPTURE(call, ...)                                                                \
	do {                                                                                       \
		if (CAPTURES & 1)                                                                  \
			call(0, __VA_ARGS__);                                                      \
		if (CAPTURES & 2)                                                                  \
			call(1, __VA_ARGS__);                                                      \
		if (CAPTURES & 4)                                                                  \
			call(2, __VA_ARGS__);                                                      \
		if (CAPTURES & 8)                                                                  \
			call(3, __VA_ARGS__);                                                      \
	} while (0)
_Static_assert(CAPTURE_SLOTS == 4, "FOR_EACH_CAPTURE knows four");

static __always_inline void book_capture(int slot, u32 cpu, u64 point, u64 wanted)
{
	struct capture_books *books = books_of_capture(slot, cpu, point);

	if (!books)
		return;
	books->seen_packets++;
	books->matched_packets += wanted >> slot & 1;
}

static __always_inline void describe(struct capture_scratch *scratch, u64 point, u32 bytes)
{
	struct captured_frame *frame = &scratch->frame;
	const struct columns *columns = &scratch->columns;

	frame->seen_ns = bpf_ktime_get_ns();
	frame->src_addr[0] = columns->src_addr[0];
	frame->src_addr[1] = columns->src_addr[1];
	frame->dst_addr[0] = columns->dst_addr[0];
	frame->dst_addr[1] = columns->dst_addr[1];
	frame->src_port = columns->src_port;
	frame->dst_port = columns->dst_port;
	frame->point = point;
	frame->protocol = columns->protocol;
	frame->bytes = bytes;
}

/* The length of what is copied, which the verifier must know at the call: 1 to *most*. */
#define CLAMP(length, most)                                                                        \
	do {                                                                                       \
		opaque(length);                                                                    \
		if ((length) > (most))                                                             \
			(length) = (most);                                                         \
	} while (0)

/* Sends the *length* bytes in the scratch space to a capture, if it wants them. */
static __always_inline void deliver(int slot, struct capture_scratch *scratch, u32 cpu, u64 wanted,
				    u64 length)
{
	struct capture_books *books = books_of_capture(slot, cpu, scratch->frame.point);
	void *ring = capture_rings.lookup(&slot);

	if (!(wanted >> slot & 1) || !books || !ring)
		return;
	CLAMP(length, CAPTURE_SNAPLEN(slot));
	scratch->frame.captured_bytes = length;
	if (bpf_ringbuf_output(ring, &scratch->frame, sizeof(scratch->frame) + length,
			       BPF_RB_NO_WAKEUP) < 0)
		books->lost_packets++;
}

/* Copies the frame as a wire carries it.  Returns how many bytes, or 0. */
static __always_inline u64 copy_skb(struct __sk_buff *skb, u8 *to)
{
	u64 length = skb->len;

	if (!skb->vlan_present) {
		CLAMP(length, CAPTURE_LONGEST);
		if (!length || bpf_skb_load_bytes(skb, 0, to, length) < 0)
			return 0;
		return length;
	}
	if (length <= MAC_BYTES || bpf_skb_load_bytes(skb, 0, to, MAC_BYTES) < 0)
		return 0;
	*(u16 *)(to + MAC_BYTES) = skb->vlan_proto;
	*(u16 *)(to + MAC_BYTES + 2) = BE16(skb->vlan_tci);
	length -= MAC_BYTES;
	CLAMP(length, CAPTURE_LONGEST - MAC_BYTES - VLAN_TAG_BYTES);
	if (!length ||
	    bpf_skb_load_bytes(skb, MAC_BYTES, to + MAC_BYTES + VLAN_TAG_BYTES, length) < 0)
		return 0;
	return length + MAC_BYTES + VLAN_TAG_BYTES;
}

/* Copies an XDP frame, which is one piece unless it is a jumbo.  Returns how many bytes, or 0. */
static __always_inline u64 copy_xdp(struct xdp_md *xdp, u8 *to, const struct frame *frame)
{
	u64 length = frame->bytes;

	CLAMP(length, CAPTURE_LONGEST);
	if (!frame->is_jumbo)
		bpf_probe_read_kernel(to, length, (void *)(long)xdp->data);
	else if (!length || bpf_xdp_load_bytes(xdp, 0, to, length) < 0)
		return 0;
	return length;
}

/* Hands the frame over to the captures that want what was spread. */
static __always_inline void hand_over(void *ctx, const bool is_xdp, struct capture_scratch *scratch,
				      const struct frame *frame, u64 wanted, u32 cpu)
{
	u64 length;

	FOR_EACH_CAPTURE(book_capture, cpu, frame->point, wanted);
	if (!wanted)
		return;
	describe(scratch, frame->point, frame->bytes + frame->has_aside_tag * VLAN_TAG_BYTES);
	length = is_xdp ? copy_xdp(ctx, scratch->bytes, frame) : copy_skb(ctx, scratch->bytes);
	FOR_EACH_CAPTURE(deliver, scratch, cpu, wanted, length);
}

static __always_inline void stand_at(struct columns *columns, const struct frame *frame)
{
	columns->point = frame->point;
	columns->direction = frame->direction;
}

static __always_inline void capture_plain(void *ctx, const bool is_xdp, const struct frame *frame,
					  const struct packet *packet)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct capture_scratch *scratch = capture_scratch.lookup(&cpu);

	if (!scratch)
		return;
	stand_at(&scratch->columns, frame);
	spread(&scratch->columns, packet);
	hand_over(ctx, is_xdp, scratch, frame, CAPTURE_WANTED(&scratch->columns), cpu);
}

/* A packet in a tunnel is asked about as its row tells it; with two rows, either may be meant. */
static __always_inline void capture_unusual(void *ctx, const bool is_xdp, const struct frame *frame,
					    const struct dissection *d)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct capture_scratch *scratch = capture_scratch.lookup(&cpu);
	u64 is_inside = d->tunnel && TUNNELS == TUNNELS_INNER;
	u64 wanted = 0;

	if (!scratch)
		return;
	stand_at(&scratch->columns, frame);
#if TUNNELS == TUNNELS_BOTH
	if (d->tunnel) {
		spread(&scratch->columns, &d->packet);
		spread_around(&scratch->columns, d, 1);
		wanted = CAPTURE_WANTED(&scratch->columns);
	}
#endif
	spread(&scratch->columns, d->tunnel && !is_inside ? &d->outer : &d->packet);
	spread_around(&scratch->columns, d, is_inside);
	wanted |= CAPTURE_WANTED(&scratch->columns);
	hand_over(ctx, is_xdp, scratch, frame, wanted, cpu);
}
