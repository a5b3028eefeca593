/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Limits: how much of a rule's packets may pass in a time.
 *
 * A packet has a price in nanoseconds, and a bucket says until when what has passed is paid for.  It
 * may run ahead of the clock by the rule's burst; a packet that comes when it is as far ahead is over
 * the limit.  So a bucket is one word, and needs nobody who fills it.
 */
#pragma once

#include "maps.bpf.h"
#include "parse.h"

/* Key: slot.  Of limits that all packets of a rule share. */
SHARED_ARRAY(rule_buckets, struct rule_bucket, RULE_SLOTS);
/* Of limits that every source has for itself.  One that is forgotten starts anew. */
BPF_F_TABLE("lru_hash:" PINS "/rule_sources", struct rule_source, struct rule_bucket, rule_sources,
	    LIMITED_SOURCES, 0);

/*
 * Whether a bucket has run further ahead than it may, and pays if not.  CPUs may find room at the
 * same moment: each may let one packet too many pass, which the bucket has paid for afterwards.
 */
static __always_inline bool is_used_up(struct rule_bucket *bucket, const struct rule_entry *entry,
				       u64 units, u64 now_ns)
{
	u64 paid_until_ns = bucket->paid_until_ns;
	u64 price_ns = units * entry->price >> RULE_PRICE_SHIFT;

	if (paid_until_ns < now_ns) {
		bucket->paid_until_ns = now_ns + price_ns;
		return false;
	}
	/* Asked before paying: else a super-packet that costs more than a burst would never pass. */
	if (paid_until_ns - now_ns >= entry->burst_ns)
		return true;
	__sync_fetch_and_add(&bucket->paid_until_ns, price_ns);
	return false;
}

static __always_inline bool is_over_limit(const struct rule_entry *entry,
					  const struct packet *packet)
{
	u64 now_ns = bpf_ktime_get_ns();
	u64 units = entry->unit == RULE_UNIT_BYTES ? packet->bytes : packet->segments;
	struct rule_source source = {{packet->key.src_addr[0], packet->key.src_addr[1]},
				     entry->slot};
	u32 slot = entry->slot;
	struct rule_bucket *bucket;

	bucket = entry->is_per_source ? rule_sources.lookup(&source) : rule_buckets.lookup(&slot);
	if (!bucket && entry->is_per_source) {
		struct rule_bucket first = {now_ns + (units * entry->price >> RULE_PRICE_SHIFT)};

		rule_sources.update(&source, &first);
	}
	return bucket && is_used_up(bucket, entry, units, now_ns);
}
