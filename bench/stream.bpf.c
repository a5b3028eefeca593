/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A record of 64 bytes for each run and nothing else, as fast as a ring buffer takes them.  Each has
 * a number, so that what is missing shows; those that found no room are counted.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#define TC_ACT_UNSPEC (-1)

struct record {
	u64 number;
	u64 rest[7];
};

struct counts {
	u64 numbered;
	u64 lost;
};

BPF_RINGBUF_OUTPUT(records, PAGES);
BPF_ARRAY(counts, struct counts, 1);

int produce(struct __sk_buff *skb)
{
	struct counts *so_far;
	struct record *record;
	int first = 0;

	so_far = counts.lookup(&first);
	if (!so_far)
		return TC_ACT_UNSPEC;
	so_far->numbered++;
	record = records.ringbuf_reserve(sizeof(*record));
	if (!record) {
		so_far->lost++;
		return TC_ACT_UNSPEC;
	}
	record->number = so_far->numbered;
	records.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return TC_ACT_UNSPEC;
}
