/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Account every packet to its flow.
 *
 *  1. The interface's entry says which hook point this is.  Its totals count the packet, whatever
 *     becomes of it.
 *  2. parse.h reads the packet's identity.
 *  3. The flow cache counts it.  Each CPU owns a part of one array, in sets of WAYS slots of one
 *     cache line.  The set is chosen by a keyed hash; a slot with the same identity is updated in
 *     place.  No helper is called on this path: array lookups, jiffies and the CPU's number are
 *     inlined by the verifier, which is why this costs a third of a hash map.
 *  4. A flow that finds no slot takes an empty one, or evicts the flow of its set that was silent
 *     for longest.  That flow goes through the ring buffer; where that is full its counts go to
 *     the hook point's overflow totals.  Detail is lost then, totals never are.
 *  5. The first packet of a flow, and one packet in SAMPLE_ONE_IN, go through a ring buffer with
 *     their headers.
 *
 * The agent maps the arrays and reads them while we write; see agent/flowcache.py.  A slot's
 * generation is odd while its identity changes.  Only the owning CPU writes to a slot, and XDP
 * and tc run with softirqs off, so there is never more than one writer.
 *
 * bcc rewrites map accesses in this file only; headers hold plain functions.  The loader compiles
 * the configuration in: CPUS, SLOTS_PER_CPU (a power of two), HOOK_POINTS, INTERFACE_SLOTS (a
 * power of two), RING_PAGES, SAMPLE_ONE_IN (0: none), SAMPLE_FIRST (0 or 1), PERF_BUFFER (where
 * the kernel has no ring buffer), and the hash key SEED_0 to SEED_4 (odd numbers).
 */
#include "events.h"
#include "parse.h"

/*
 * Where /proc/kallsyms hides addresses, as it does without CAP_SYSLOG, bcc takes this helper for
 * missing and puts bpf_probe_read in its place, which network programs may not call.
 */
#undef bpf_probe_read_kernel

#define WAYS	       4
#define TC_ACT_UNSPEC  (-1) /* let the next program decide; also tcx's TCX_NEXT */
#define VLAN_TAG_BYTES 4
/* A non-linear packet is pulled this far: Ethernet, tags, IPv6 with extensions, TCP. */
#define PULL_BYTES    192
#define LONGEST_BYTES 0xffff

/* An eviction holds a slot, then its origin, as they were. */
_Static_assert(__builtin_offsetof(struct flow_eviction, slot_index) ==
		       sizeof(struct flow_slot) + sizeof(struct flow_origin),
	       "an eviction holds the whole origin");

/* Orders our own stores for the agent's mapping; x86 does not reorder them further. */
#define barrier() asm volatile("" ::: "memory")

/* Key: CPU * SLOTS_PER_CPU + slot.  We write; the agent maps it to read; nothing is deleted. */
BPF_F_TABLE("array", u32, struct flow_slot, flow_slots, CPUS *SLOTS_PER_CPU, BPF_F_MMAPABLE);
/* Key: as above.  Apart from the slot because it is written once an interval, not per packet. */
BPF_F_TABLE("array", u32, struct flow_origin, flow_origins, CPUS *SLOTS_PER_CPU, BPF_F_MMAPABLE);
/* Key: CPU * HOOK_POINTS + hook point.  Point 0 books what met no known interface. */
BPF_F_TABLE("array", u32, struct hook_totals, totals, CPUS *HOOK_POINTS, BPF_F_MMAPABLE);
/* Key: ifindex modulo INTERFACE_SLOTS.  The agent writes, before a program is attached. */
BPF_F_TABLE("array", u32, struct interface_entry, interfaces, INTERFACE_SLOTS, BPF_F_MMAPABLE);
/* One entry: hook_clock writes the readings, the agent writes interval_jiffies. */
BPF_F_TABLE("array", u32, struct agent_clock, agent_clock, 1, BPF_F_MMAPABLE);

/* The agent polls: waking it for an event costs microseconds of the packet's CPU. */
#if PERF_BUFFER
BPF_PERF_OUTPUT(evictions);
BPF_PERF_OUTPUT(packets);
#else
BPF_RINGBUF_OUTPUT(evictions, RING_PAGES);
BPF_RINGBUF_OUTPUT(packets, RING_PAGES);
#endif

/* A word of a slot that is declared as several fields. */
typedef u64 __attribute__((may_alias)) u64_of_fields;
_Static_assert(__builtin_offsetof(struct flow_slot, dst_port_be) ==
			       __builtin_offsetof(struct flow_slot, src_port_be) + 2 &&
		       __builtin_offsetof(struct flow_slot, lane) ==
			       __builtin_offsetof(struct flow_slot, src_port_be) + 4,
	       "ports and lane are one word");

static __always_inline u64_of_fields *ports_and_lane(const struct flow_slot *slot)
{
	return (u64_of_fields *)&slot->src_port_be;
}

static __always_inline u64 key_ports_and_lane(const struct flow_key *key)
{
	return key->lane << 32 | key->ports_be;
}

/*
 * Multiplication carries upwards only.  So addresses are turned round: hosts of one network differ
 * in their last byte, which must come lowest to reach the rest.  And so products are shifted before
 * they are put together: the same difference in the top bits of two words would cancel out
 * otherwise, whatever the seeds.
 */
static __always_inline u64 hash_key(const struct flow_key *key)
{
	u64 hash = key_ports_and_lane(key) * SEED_0;

	hash ^= __builtin_bswap64(key->src_addr[1]) * SEED_1 >> 9;
	hash ^= __builtin_bswap64(key->dst_addr[1]) * SEED_2 >> 18;
	hash ^= __builtin_bswap64(key->src_addr[0]) * SEED_3 >> 27;
	hash ^= (__builtin_bswap64(key->dst_addr[0]) + key->protocol) * SEED_4 >> 36;
	/* The high half of a product depends on all of its bits, the low half does not. */
	hash ^= hash >> 32;
	return hash * SEED_0 >> 32;
}

static __always_inline bool is_same_flow(const struct flow_slot *slot, const struct flow_key *key)
{
	return slot->src_addr[0] == key->src_addr[0] && slot->src_addr[1] == key->src_addr[1] &&
	       slot->dst_addr[0] == key->dst_addr[0] && slot->dst_addr[1] == key->dst_addr[1] &&
	       *ports_and_lane(slot) == key_ports_and_lane(key) && slot->protocol == key->protocol;
}

static __always_inline void overflow(struct hook_totals *books, const struct flow_slot *slot)
{
	books->overflows++;
	books->overflow_packets += slot->packets;
	books->overflow_bytes += slot->bytes;
}

/* The books of the evicted flow's own hook point, which may be another than the packet's. */
static __always_inline struct hook_totals *books_of(const struct flow_slot *slot, u32 cpu)
{
	u32 index = cpu * HOOK_POINTS + (slot->lane & LANE_POINT_MASK);

	return totals.lookup(&index);
}

static __always_inline void evict(void *ctx, const struct flow_slot *slot, u32 slot_index, u32 cpu)
{
	struct flow_origin *origin = flow_origins.lookup(&slot_index);
	struct hook_totals *books = books_of(slot, cpu);

	if (!origin || !books)
		return;
#if PERF_BUFFER
	struct flow_eviction eviction = {};

	__builtin_memcpy(&eviction, slot, sizeof(*slot));
	__builtin_memcpy(&eviction.first_ns, origin, sizeof(*origin));
	eviction.slot_index = slot_index;
	if (evictions.perf_submit(ctx, &eviction, sizeof(eviction)) < 0) {
		overflow(books, slot);
		return;
	}
#else
	struct flow_eviction *eviction = evictions.ringbuf_reserve(sizeof(*eviction));

	if (!eviction) {
		overflow(books, slot);
		return;
	}
	__builtin_memcpy(eviction, slot, sizeof(*slot));
	__builtin_memcpy(&eviction->first_ns, origin, sizeof(*origin));
	eviction->slot_index = slot_index;
	evictions.ringbuf_submit(eviction, BPF_RB_NO_WAKEUP);
#endif
	books->evictions++;
}

/* A slot has 16 bits for a packet's length, and the longest stands for longer ones too. */
static __always_inline u64 at_longest(u64 bytes)
{
	return bytes > LONGEST_BYTES ? LONGEST_BYTES : bytes;
}

/* Counts a packet of the flow that the slot holds. */
static __always_inline void touch(struct flow_slot *slot, u32 slot_index,
				  const struct packet *packet, u64 now)
{
	u32 zero = 0;
	struct agent_clock *clock = agent_clock.lookup(&zero);

	/*
	 * An interval begins with a tick that lies ahead when the agent announces it.  So however
	 * many packets a flow has, one of them is the first, and it is so only once.
	 */
	if (clock && (s32)(slot->last_jiffies - clock->interval_jiffies) < 0 &&
	    (s32)((u32)now - clock->interval_jiffies) >= 0) {
		struct flow_origin *origin = flow_origins.lookup(&slot_index);

		if (origin) {
			/* Of packets since the snapshot but before the tick, only this tells. */
			origin->before_min_bytes = slot->min_bytes;
			origin->before_max_bytes = slot->max_bytes;
			origin->before_tcp_flags = slot->tcp_flags;
			origin->first_ns = bpf_ktime_get_ns();
		}
		slot->tcp_flags = packet->tcp_flags;
		slot->min_bytes = at_longest(packet->min_bytes);
		slot->max_bytes = at_longest(packet->max_bytes);
	} else {
		/* Compare before writing: most packets change none of these. */
		if (packet->tcp_flags & ~slot->tcp_flags)
			slot->tcp_flags |= packet->tcp_flags;
		if (packet->min_bytes < slot->min_bytes)
			slot->min_bytes = packet->min_bytes;
		if (packet->max_bytes > slot->max_bytes)
			slot->max_bytes = at_longest(packet->max_bytes);
	}
	slot->last_jiffies = now;
	slot->bytes += packet->bytes;
	barrier();
	slot->packets += packet->segments;
}

/* Gives the slot to the packet's flow. */
static __always_inline void take(struct flow_slot *slot, u32 slot_index,
				 const struct packet *packet, u64 now)
{
	struct flow_origin *origin = flow_origins.lookup(&slot_index);
	u16 generation = slot->generation;

	*(volatile u16 *)&slot->generation = generation + 1;
	barrier();
	slot->src_addr[0] = packet->key.src_addr[0];
	slot->src_addr[1] = packet->key.src_addr[1];
	slot->dst_addr[0] = packet->key.dst_addr[0];
	slot->dst_addr[1] = packet->key.dst_addr[1];
	*ports_and_lane(slot) = key_ports_and_lane(&packet->key);
	slot->protocol = packet->key.protocol;
	slot->tcp_flags = packet->tcp_flags;
	slot->packets = packet->segments;
	slot->bytes = packet->bytes;
	slot->last_jiffies = now;
	slot->min_bytes = at_longest(packet->min_bytes);
	slot->max_bytes = at_longest(packet->max_bytes);
	if (origin) {
		origin->before_min_bytes = LONGEST_BYTES;
		origin->before_max_bytes = 0;
		origin->before_tcp_flags = 0;
		origin->first_ns = bpf_ktime_get_ns();
	}
	barrier();
	*(volatile u16 *)&slot->generation = generation + 2;
}

/* Counts the packet in the flow cache.  Returns whether it began a flow. */
static __always_inline bool account(void *ctx, const struct packet *packet, u64 cpu)
{
	u64 first =
		cpu * SLOTS_PER_CPU + (hash_key(&packet->key) & (SLOTS_PER_CPU - 1) & ~(WAYS - 1));
	u64 now = bpf_jiffies64();
	struct flow_slot *victim = NULL;
	u32 victim_age = 0, victim_index = 0;

#pragma unroll
	for (int way = 0; way < WAYS; way++) {
		u32 index = first + way;
		struct flow_slot *slot = flow_slots.lookup(&index);
		u32 age;

		if (!slot)
			return false;
		if (is_same_flow(slot, &packet->key) && slot->bytes) {
			touch(slot, index, packet, now);
			return false;
		}
		/* An empty slot, known by its bytes since packets wrap, is older than any flow. */
		age = slot->bytes ? now - slot->last_jiffies + 1 : ~0U;
		if (!victim || age > victim_age) {
			victim = slot;
			victim_age = age;
			victim_index = index;
		}
	}
	if (!victim)
		return false;
	if (victim->bytes)
		evict(ctx, victim, victim_index, cpu);
	take(victim, victim_index, packet, now);
	return true;
}

/*
 * Copies the frame's first bytes and zeroes the rest.  Returns how many were copied.  A helper,
 * because direct access takes a branch a word, and so many paths exhaust the verifier (6.18).
 */
static __always_inline u32 copy_header(struct packet_event *event, void *data, void *end)
{
	u64 length = end - data;

	if (length > HEADER_BYTES)
		length = HEADER_BYTES;
	__builtin_memset(event->header, 0, sizeof(event->header));
	bpf_probe_read_kernel(event->header, length, data);
	return length;
}

static __always_inline void fill_event(struct packet_event *event, const struct packet *packet,
				       u8 reason, void *data, void *end)
{
	event->seen_ns = bpf_ktime_get_ns();
	event->src_addr[0] = packet->key.src_addr[0];
	event->src_addr[1] = packet->key.src_addr[1];
	event->dst_addr[0] = packet->key.dst_addr[0];
	event->dst_addr[1] = packet->key.dst_addr[1];
	event->src_port_be = packet->key.ports_be;
	event->dst_port_be = packet->key.ports_be >> 16;
	event->lane = packet->key.lane;
	event->protocol = packet->key.protocol;
	event->tcp_flags = packet->tcp_flags;
	event->hop_limit = packet->hop_limit;
	event->reason = reason;
	event->bytes = packet->bytes;
	event->packets = packet->segments;
	event->header_bytes = copy_header(event, data, end);
}

/* Sends the packet's headers to the agent. */
static __always_inline void sample(void *ctx, struct hook_totals *books,
				   const struct packet *packet, u8 reason, void *data, void *end)
{
#if PERF_BUFFER
	struct packet_event event = {};

	fill_event(&event, packet, reason, data, end);
	if (packets.perf_submit(ctx, &event, sizeof(event)) < 0) {
		books->lost_samples++;
		return;
	}
#else
	struct packet_event *event = packets.ringbuf_reserve(sizeof(*event));

	if (!event) {
		books->lost_samples++;
		return;
	}
	fill_event(event, packet, reason, data, end);
	packets.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
#endif
	books->samples++;
}

/* Whether this packet is the one in SAMPLE_ONE_IN.  Gaps are random, so no rhythm hides. */
static __always_inline bool is_sampled(struct hook_totals *books)
{
#if SAMPLE_ONE_IN
	if (books->sample_countdown) {
		books->sample_countdown--;
		return false;
	}
	books->sample_countdown = bpf_get_prandom_u32() % (2 * SAMPLE_ONE_IN - 1);
	return true;
#else
	return false;
#endif
}

/* Books one packet that was parsed, at one hook point. */
static __always_inline void book(void *ctx, struct packet *packet, u64 point, void *data, void *end)
{
	u64 cpu = bpf_get_smp_processor_id();
	u32 index = cpu * HOOK_POINTS + point;
	struct hook_totals *books = totals.lookup(&index);
	bool is_new;

	if (!books)
		return;
	books->seen_packets += packet->segments;
	books->seen_bytes += packet->bytes;
	if (packet->is_truncated)
		books->truncated_packets += packet->segments;
	packet->key.lane |= point << LANE_POINT_SHIFT;
	is_new = account(ctx, packet, cpu);
	if (is_new)
		books->new_flows++;
	if (is_new && SAMPLE_FIRST)
		sample(ctx, books, packet, REASON_FIRST, data, end);
	else if (is_sampled(books))
		sample(ctx, books, packet, REASON_SAMPLED, data, end);
}

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
