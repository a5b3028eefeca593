/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Account every packet to its flow.
 *
 *  1. The interface's entry says which hook point this is.  Its totals count the packet, whatever
 *     becomes of it (book.bpf.h).
 *  2. parse.h reads the packet's identity.
 *  3. The flow cache counts it (cache.bpf.h).  No helper is called on this path: array lookups,
 *     jiffies and the CPU's number are inlined by the verifier, which is why this costs a third of
 *     a hash map.
 *  4. The first packet of a flow, and one packet in SAMPLE_ONE_IN, go through a ring buffer with
 *     their headers (sample.bpf.h).
 *
 * bcc rewrites map accesses in its main file only.  So the loader puts every *.bpf.h in place of
 * the line that includes it; other headers hold plain functions.  It compiles the configuration
 * in: PINS (the folder of the maps), CPUS, SLOTS_PER_CPU (a power of two), HOOK_POINTS,
 * INTERFACE_SLOTS (a power of two), RING_PAGES, SAMPLE_ONE_IN (0: none), SAMPLE_FIRST (0 or 1),
 * PERF_BUFFER (where the kernel has no ring buffer), and the hash key SEED_0 to SEED_4 (odd
 * numbers).
 */
#include "events.h"
#include "parse.h"

#include "maps.bpf.h"
#include "book.bpf.h"

#define TC_ACT_UNSPEC  (-1) /* let the next program decide; also tcx's TCX_NEXT */
#define VLAN_TAG_BYTES 4
/* A non-linear packet is pulled this far: Ethernet, tags, IPv6 with extensions, TCP. */
#define PULL_BYTES 192

/* The entry of an interface; NULL where the agent has told us nothing of it. */
static __always_inline struct interface_entry *interface_of(u32 ifindex)
{
	u32 index = ifindex & (INTERFACE_SLOTS - 1);
	struct interface_entry *entry = interfaces.lookup(&index);

	return entry && entry->ifindex == ifindex ? entry : NULL;
}

/*
 * A super-packet leaves, or arrived, as several segments, each with the same headers.  Count what
 * the wire carries.  The kernel knows how many they are, unless a guest's kernel made the packet.
 * In a tunnel the inner headers are repeated too, which we do not read: bytes fall short there.
 */
static __always_inline void count_segments(struct packet *packet, u64 segment_bytes,
					   u32 segment_count)
{
	u64 payload_bytes;

	if (!segment_bytes || packet->bytes <= packet->header_bytes)
		return;
	payload_bytes = packet->bytes - packet->header_bytes;
	packet->segments = segment_count ?: (payload_bytes + segment_bytes - 1) / segment_bytes;
	packet->bytes += (packet->segments - 1) * packet->header_bytes;
	packet->max_bytes = packet->header_bytes + segment_bytes;
	packet->min_bytes = packet->bytes - (packet->segments - 1) * packet->max_bytes;
}

static __always_inline void account_skb(struct __sk_buff *skb, bool is_egress)
{
	struct interface_entry *entry = interface_of(skb->ifindex);
	u32 link_bytes = entry ? entry->link_bytes : sizeof(struct ethernet_header);
	u64 point = !entry ? 0 : is_egress ? entry->egress_point : entry->ingress_point;
	/* Multiplied with 0 or 1: a branch would double the verifier's states. */
	u64 is_tagged = skb->vlan_present;
	u64 vlan = is_tagged * skb->vlan_tci & VLAN_VID_MASK;
	u64 tag_bytes = is_tagged * VLAN_TAG_BYTES;
	struct cursor cursor;
	void *data;

	/* Twice at most: again when headers lay outside the linear part. */
	for (int pulled = 0; pulled < 2; pulled++) {
		struct packet packet = {.bytes = skb->len + tag_bytes, .segments = 1};

		packet.key.lane = vlan << LANE_VLAN_SHIFT;
		packet.header_bytes = tag_bytes;
		packet.min_bytes = packet.max_bytes = packet.bytes;
		data = (void *)(long)skb->data;
		cursor.pos = data;
		cursor.end = (void *)(long)skb->data_end;
		parse_packet(&cursor, &packet, link_bytes);
		if (packet.is_truncated && !pulled && cursor.end - data < skb->len) {
			/* Pointers into the packet are void from here on, even if it fails. */
			bpf_skb_pull_data(skb, skb->len < PULL_BYTES ? skb->len : PULL_BYTES);
			continue;
		}
		count_segments(&packet, skb->gso_size, skb->gso_segs);
		book(skb, &packet, point, data, cursor.end);
		return;
	}
}

int hook_xdp(struct xdp_md *ctx)
{
	struct interface_entry *entry = interface_of(ctx->ingress_ifindex);
	u32 link_bytes = entry ? entry->link_bytes : sizeof(struct ethernet_header);
	void *data = (void *)(long)ctx->data;
	struct cursor cursor = {.pos = data, .end = (void *)(long)ctx->data_end};
	struct packet packet = {.bytes = cursor.end - data, .segments = 1};

	packet.min_bytes = packet.max_bytes = packet.bytes;
	parse_packet(&cursor, &packet, link_bytes);
	book(ctx, &packet, entry ? entry->ingress_point : 0, data, cursor.end);
	return XDP_PASS;
}

int hook_ingress(struct __sk_buff *skb)
{
	account_skb(skb, false);
	return TC_ACT_UNSPEC;
}

int hook_egress(struct __sk_buff *skb)
{
	account_skb(skb, true);
	return TC_ACT_UNSPEC;
}

/* Attached nowhere: the agent runs it to learn which jiffies go with which nanoseconds. */
int hook_clock(struct __sk_buff *skb)
{
	u32 zero = 0;
	struct agent_clock *clock = agent_clock.lookup(&zero);

	if (!clock)
		return 0;
	clock->jiffies = bpf_jiffies64();
	clock->monotonic_ns = bpf_ktime_get_ns();
	return 0;
}
