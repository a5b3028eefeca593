/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the hooks are measured beside: nothing, parsing alone, the hash maps that other programs count
 * flows in, and an event for each packet.  All of these parse with our parse.h.  And what rules are
 * measured beside: a dropper of ICMP as in every introduction to XDP, and one lookup in a trie.
 *
 * bcc turns map accesses into calls only in functions it reads, so each hook is written out.
 * CPUS, FLOWS and PREFIXES are compiled in, and so is what the maps hold.
 */
#include "parse.h"

#define TC_ACT_UNSPEC (-1)
#define TC_ACT_SHOT   2

/* The five-tuple alone, as small as other programs have it. */
struct tuple {
	u64 src_addr[2];
	u64 dst_addr[2];
	u32 ports_be;
	u32 protocol;
};

struct counters {
	u64 packets;
	u64 bytes;
	u64 first_ns;
	u64 last_ns;
	u64 tcp_flags;
	u64 reserved[3];
};

/* An event of 64 bytes. */
struct sample {
	struct flow_key key;
	u64 bytes;
};

/* Which source address comes next, of how many; one for each CPU that drives. */
struct drive {
	u32 next;
	u32 flows;
	u32 first;
	u32 distance; /* between one address and the next higher */
	u32 leap;     /* addresses from one packet to the next, fewer than flows */
	u32 ifindex;  /* of the interface that packets leave by */
	u32 sum;      /* of an IPv4 header's words, its source left out, as its checksum has them */
	u32 reserved[9];
};

/* The smallest key and value that a trie of IPv4 prefixes can have. */
struct trie_key {
	u32 bits;
	u32 addr_be;
};

BPF_TABLE("lru_percpu_hash", struct tuple, struct counters, lru_flows, FLOWS);
BPF_F_TABLE("array", u32, struct drive, drives, CPUS, BPF_F_MMAPABLE);
BPF_PROG_ARRAY(driven_xdp, 1);
BPF_PROG_ARRAY(driven_tc, 1);
BPF_LPM_TRIE(prefixes, struct trie_key, u64, PREFIXES);
BPF_RINGBUF_OUTPUT(events, 4096);

static __always_inline void parse_xdp(struct xdp_md *ctx, struct packet *packet)
{
	void *data = (void *)(long)ctx->data;
	struct cursor cursor = {.pos = data, .end = (void *)(long)ctx->data_end};

	packet->bytes = cursor.end - data;
	parse_plain(&cursor, packet, sizeof(struct ethernet_header), false);
}

static __always_inline void parse_skb(struct __sk_buff *skb, struct packet *packet)
{
	struct cursor cursor = {.pos = (void *)(long)skb->data, .end = (void *)(long)skb->data_end};

	packet->bytes = skb->len;
	parse_plain(&cursor, packet, sizeof(struct ethernet_header), false);
}

/* Makes the compiler believe that all of it is used. */
static __always_inline void use(struct packet *packet)
{
	opaque(packet->key.src_addr[0]);
	opaque(packet->key.src_addr[1]);
	opaque(packet->key.dst_addr[0]);
	opaque(packet->key.dst_addr[1]);
	opaque(packet->key.ports_be);
	opaque(packet->key.lane);
	opaque(packet->key.protocol);
	opaque(packet->tcp_flags);
}

static __always_inline void count(struct packet *packet, u64 now)
{
	struct tuple tuple = {
		.src_addr = {packet->key.src_addr[0], packet->key.src_addr[1]},
		.dst_addr = {packet->key.dst_addr[0], packet->key.dst_addr[1]},
		.ports_be = packet->key.ports_be,
		.protocol = packet->key.protocol,
	};
	struct counters *found = lru_flows.lookup(&tuple);
	struct counters fresh = {.first_ns = now};

	if (!found) {
		lru_flows.update(&tuple, &fresh);
		found = lru_flows.lookup(&tuple);
		if (!found)
			return;
	}
	found->packets++;
	found->bytes += packet->bytes;
	found->tcp_flags |= packet->tcp_flags;
	found->last_ns = now;
}

int empty_xdp(struct xdp_md *ctx)
{
	return XDP_PASS;
}

int empty_tc(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

int parse_only_xdp(struct xdp_md *ctx)
{
	struct packet packet = {};

	parse_xdp(ctx, &packet);
	use(&packet);
	return XDP_PASS;
}

int parse_only_tc(struct __sk_buff *skb)
{
	struct packet packet = {};

	parse_skb(skb, &packet);
	use(&packet);
	return TC_ACT_UNSPEC;
}

int lru_xdp(struct xdp_md *ctx)
{
	struct packet packet = {};

	parse_xdp(ctx, &packet);
	count(&packet, bpf_jiffies64());
	return XDP_PASS;
}

int lru_tc(struct __sk_buff *skb)
{
	struct packet packet = {};

	parse_skb(skb, &packet);
	count(&packet, bpf_jiffies64());
	return TC_ACT_UNSPEC;
}

int lru_clock_tc(struct __sk_buff *skb)
{
	struct packet packet = {};

	parse_skb(skb, &packet);
	count(&packet, bpf_ktime_get_ns());
	return TC_ACT_UNSPEC;
}

static __always_inline void fill(struct sample *sample, struct packet *packet)
{
	sample->key = packet->key;
	sample->bytes = packet->bytes;
}

static __always_inline int tell(struct __sk_buff *skb, const u64 wake_up)
{
	struct packet packet = {};
	struct sample *sample;

	parse_skb(skb, &packet);
	sample = events.ringbuf_reserve(sizeof(*sample));
	if (!sample)
		return TC_ACT_UNSPEC;
	fill(sample, &packet);
	events.ringbuf_submit(sample, wake_up);
	return TC_ACT_UNSPEC;
}

int event_tc(struct __sk_buff *skb)
{
	return tell(skb, BPF_RB_NO_WAKEUP);
}

/* The same for a reader that is to be woken whenever it has read all. */
int event_wake_tc(struct __sk_buff *skb)
{
	return tell(skb, 0);
}

/* The IPv4 header of a frame without a tag; NULL where there is none. */
static __always_inline struct ipv4_header *ipv4_in(void *data, void *end)
{
	struct ethernet_header *ethernet = data;
	struct ipv4_header *ip = (void *)(ethernet + 1);

	return (void *)(ip + 1) <= end && ethernet->ethertype_be == BE16(ETH_P_IP) ? ip : NULL;
}

int toy_xdp(struct xdp_md *ctx)
{
	struct ipv4_header *ip = ipv4_in((void *)(long)ctx->data, (void *)(long)ctx->data_end);

	return ip && ip->protocol == IPPROTO_ICMP ? XDP_DROP : XDP_PASS;
}

int toy_tc(struct __sk_buff *skb)
{
	struct ipv4_header *ip = ipv4_in((void *)(long)skb->data, (void *)(long)skb->data_end);

	return ip && ip->protocol == IPPROTO_ICMP ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* The same, of sources that are in the trie. */
int trie_xdp(struct xdp_md *ctx)
{
	struct ipv4_header *ip = ipv4_in((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	struct trie_key key = {.bits = 32};

	if (!ip)
		return XDP_PASS;
	key.addr_be = ip->src_addr;
	return prefixes.lookup(&key) ? XDP_DROP : XDP_PASS;
}

int trie_tc(struct __sk_buff *skb)
{
	struct ipv4_header *ip = ipv4_in((void *)(long)skb->data, (void *)(long)skb->data_end);
	struct trie_key key = {.bits = 32};

	if (!ip)
		return TC_ACT_UNSPEC;
	key.addr_be = ip->src_addr;
	return prefixes.lookup(&key) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* On a live link, what all others are measured net of. */
int drop_xdp(struct xdp_md *ctx)
{
	return XDP_DROP;
}

int drop_tc(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

/* The next source address goes into an IPv4 frame; NULL where there was no room for it. */
static __always_inline struct drive *drive(void *data, void *end)
{
	struct ipv4_header *ip = data + sizeof(struct ethernet_header);
	u32 cpu = bpf_get_smp_processor_id();
	struct drive *drive = drives.lookup(&cpu);

	if (!drive || (void *)(ip + 1) > end)
		return NULL;
	ip->src_addr = __builtin_bswap32(drive->first + drive->next * drive->distance);
	drive->next += drive->leap;
	if (drive->next >= drive->flows)
		drive->next -= drive->flows;
	return drive;
}

int drive_xdp(struct xdp_md *ctx)
{
	if (drive((void *)(long)ctx->data, (void *)(long)ctx->data_end))
		driven_xdp.call(ctx, 0);
	return XDP_PASS;
}

int drive_tc(struct __sk_buff *skb)
{
	if (drive((void *)(long)skb->data, (void *)(long)skb->data_end))
		driven_tc.call(skb, 0);
	return TC_ACT_UNSPEC;
}

/* Sends it out by an interface, as good as the stack would. */
int spray_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv4_header *ip = data + sizeof(struct ethernet_header);
	struct drive *driven = drive(data, end);
	u32 sum;

	if (!driven || (void *)(ip + 1) > end)
		return XDP_ABORTED;
	sum = driven->sum + (ip->src_addr & 0xffff) + (ip->src_addr >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->checksum_be = ~((sum & 0xffff) + (sum >> 16));
	return bpf_redirect(driven->ifindex, 0);
}
