/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * TLS: ClientHellos, on whatever TCP port.
 *
 *  1. A segment begins a ClientHello where its first bytes say so: four of them have one value.
 *  2. It is copied in chunks.  Where a part of it will come with later segments, the sequence
 *     number of that part is noted in a table, at a place chosen by the connection's hash.
 *  3. While anything was noted lately, each segment of TCP is compared with the note in its place,
 *     which costs a load from an array; and goes on in chunks where it is what was waited for.
 *
 * A note that is overwritten by another connection's is a hello of which a part is missing, which
 * the agent counts.
 */
#pragma once

#include "cache.bpf.h"
#include "frame.h"
#include "payload.bpf.h"

#if TLS
PAYLOAD_EVENTS(tls, tls_event);

/* Handshakes that are under way at one moment, of which few are cut. */
#define TLS_NOTES 4096
/* Chunks in one super-packet. */
#define TLS_CHUNKS_MAX ((TLS_HELLO_BYTES + TLS_CHUNK_BYTES - 1) / TLS_CHUNK_BYTES)
/* A part that was lost is sent again sooner. */
#if REPLAY
#define TLS_WAIT_JIFFIES (2000000000 / REPLAY_TICK_NS)
#else
#define TLS_WAIT_JIFFIES 512
#endif

/* A note: the sequence number in the low half, the bytes missing and a tag of the hash above. */
#define TLS_MISSING_SHIFT 32
#define TLS_MISSING_MASK  0x1fff
#define TLS_TAG_SHIFT	  45

/* Content type 22, version 3.x, handshake type 1, length below 64 KB: bytes 0, 1, 5 and 6. */
#define TLS_HELLO_MASK		0x00ffff000000ffffULL
#define TLS_HELLO_VALUE		0x0000010000000316ULL
#define TLS_RECORD_HEADER_BYTES 5

_Static_assert(TLS_HELLO_BYTES <= TLS_MISSING_MASK, "a note has room for all that is missing");

/* Key: a part of the connection's hash.  We write and read, on any CPU, a word at a time. */
BPF_TABLE_PINNED("array", u32, u64, tls_notes, TLS_NOTES, PRIVATE("tls_notes"));
/* One entry: the jiffies of the latest note. */
BPF_TABLE_PINNED("array", u32, u64, tls_noted, 1, PRIVATE("tls_noted"));

static __always_inline u32 note_index(u64 hash)
{
	return hash & (TLS_NOTES - 1);
}

static __always_inline u64 note_of(u64 hash, u64 sequence, u64 missing)
{
	return hash >> 12 << TLS_TAG_SHIFT | missing << TLS_MISSING_SHIFT | (u32)sequence;
}

/* How many bytes are missing of a hello that goes on with this packet; 0 where none does. */
static __always_inline u64 missing_bytes(const struct packet *packet)
{
	u64 hash = hash_key(&packet->key), missing;
	u32 index = note_index(hash);
	u64 *note = tls_notes.lookup(&index);

	if (!note)
		return 0;
	missing = *note >> TLS_MISSING_SHIFT & TLS_MISSING_MASK;
	return missing && *note == note_of(hash, packet->sequence, missing) ? missing : 0;
}

static __always_inline bool is_anything_noted(void)
{
	u32 zero = 0;
	u64 *noted = tls_noted.lookup(&zero);

	return noted && *noted && bpf_jiffies64() - *noted < TLS_WAIT_JIFFIES;
}

static __always_inline u64 first_word(void *ctx, const bool is_xdp, const struct packet *packet)
{
	u64 word = 0;

	if (packet->payload_end - packet->header_bytes >= sizeof(word))
		read_frame(ctx, is_xdp, packet->header_bytes, &word, sizeof(word));
	return word;
}

/* Whether a hello begins, or goes on, in this packet. */
static __always_inline bool is_hello(void *ctx, const bool is_xdp, const struct packet *packet)
{
	if (packet->key.protocol != IPPROTO_TCP)
		return false;
	if ((first_word(ctx, is_xdp, packet) & TLS_HELLO_MASK) == TLS_HELLO_VALUE)
		return true;
	return is_anything_noted() && missing_bytes(packet);
}

/* Returns how many bytes went out. */
static __always_inline u64 copy_chunk(void *ctx, const bool is_xdp, struct hook_totals *books,
				      const struct packet *packet, u64 offset, u64 size,
				      u8 is_start)
{
	struct tls_event *event;

#if PERF_BUFFER
	u32 cpu = bpf_get_smp_processor_id();

	event = tls_drafts.lookup(&cpu);
#else
	event = tls.ringbuf_reserve(sizeof(*event));
#endif
	if (!event) {
		books->lost_tls_hellos++;
		return 0;
	}
	FILL_HEAD(event, packet);
	event->sequence = packet->sequence + (u32)(offset - packet->header_bytes);
	event->is_start = is_start;
	size = copy_payload(ctx, is_xdp, offset, size, event->chunk, sizeof(event->chunk));
	event->captured_bytes = size;
#if PERF_BUFFER
	if (tls.perf_submit(ctx, event, sizeof(*event)) < 0) {
		books->lost_tls_hellos++;
		return 0;
	}
#else
	tls.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
#endif
	return size;
}

static __always_inline void note_missing(const struct packet *packet, u64 offset, u64 missing)
{
	u64 hash = hash_key(&packet->key);
	u32 index = note_index(hash), zero = 0;
	u64 *note = tls_notes.lookup(&index), *noted = tls_noted.lookup(&zero);

	if (!note || !noted)
		return;
	*note = missing ? note_of(hash, packet->sequence + offset - packet->header_bytes, missing)
			: 0;
	if (missing)
		*noted = bpf_jiffies64();
}

static __always_inline void copy_hello(void *ctx, const bool is_xdp, struct hook_totals *books,
				       const struct packet *packet)
{
	u64 offset = packet->header_bytes, end = packet->payload_end, missing;
	bool is_start = (first_word(ctx, is_xdp, packet) & TLS_HELLO_MASK) == TLS_HELLO_VALUE;

	if (is_start) {
		missing = payload_u16(ctx, is_xdp, offset + 3) + TLS_RECORD_HEADER_BYTES;
		if (missing > TLS_HELLO_BYTES)
			missing = TLS_HELLO_BYTES;
	} else {
		missing = missing_bytes(packet);
	}
#pragma clang loop unroll(disable)
	for (int count = 0; count < TLS_CHUNKS_MAX && missing && offset < end; count++) {
		u64 available = end - offset;
		u64 copied =
			copy_chunk(ctx, is_xdp, books, packet, offset,
				   available < missing ? available : missing, is_start && !count);

		if (!copied)
			return;
		offset += copied;
		missing -= copied;
	}
	/* Of a hello that came at once there is no note. */
	if (missing || !is_start)
		note_missing(packet, offset, missing);
}
#endif
