/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * DNS: the beginning of each message, over UDP and TCP.
 *
 * Over TCP each message has its length in front, and segments are cut anywhere.  So the place
 * where the next message begins is kept for each connection whose messages do not end with its
 * segments: what is in between goes unread, and each message is found, however long those before
 * it were.  A message that is cut off is copied as far as its first segment goes.
 */
#pragma once

#include "payload.bpf.h"

/* More than a packet has usually; what is behind them is counted as lost. */
#define DNS_MESSAGES_MAX 16
#define DNS_PREFIX_BYTES 2
/* A prefix, and the longest message that it can announce. */
#define DNS_LONGEST_BYTES (DNS_PREFIX_BYTES + 0xffff)
/* Zone transfers and pipelining resolvers: few connections at a time. */
#define DNS_STREAMS 4096

#if DNS
PAYLOAD_EVENTS(dns, dns_event);

struct dns_connection {
	u64 src_addr[2];
	u64 dst_addr[2];
	u32 ports_be;
	u32 lane;
};

struct dns_stream {
	u32 next_sequence; /* of the next message, or of the rest of one */
	u32 body_bytes;	   /* of that message where its prefix was read already, else 0 */
};

/* Key: one direction of a connection.  We write and delete; the oldest make room. */
BPF_TABLE_PINNED("lru_hash", struct dns_connection, struct dns_stream, dns_streams, DNS_STREAMS,
		 PRIVATE("dns_streams"));

static __always_inline bool is_dns(const struct packet *packet)
{
	u16 src_port_be = packet->key.ports_be, dst_port_be = packet->key.ports_be >> 16;

	return (packet->key.protocol == IPPROTO_UDP || packet->key.protocol == IPPROTO_TCP) &&
	       (IS_DNS_PORT(dst_port_be) || IS_DNS_PORT(src_port_be));
}

/* Copies the message at offset, of which as many bytes are here as available says. */
static __always_inline void copy_message(void *ctx, const bool is_xdp, struct hook_totals *books,
					 const struct packet *packet, u64 offset, u64 available,
					 u64 message_bytes)
{
	struct dns_event *event;
	u64 size = available < message_bytes ? available : message_bytes;

#if PERF_BUFFER
	u32 cpu = bpf_get_smp_processor_id();

	event = dns_drafts.lookup(&cpu);
#else
	event = dns.ringbuf_reserve(sizeof(*event));
#endif
	if (!event) {
		books->lost_dns_messages++;
		return;
	}
	FILL_HEAD(event, packet);
	event->protocol = packet->key.protocol;
	event->message_bytes = message_bytes;
	event->captured_bytes =
		copy_payload(ctx, is_xdp, offset, size, event->message, sizeof(event->message));
#if PERF_BUFFER
	if (dns.perf_submit(ctx, event, sizeof(*event)) < 0)
		books->lost_dns_messages++;
#else
	dns.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
#endif
}

/* Each segment of a super-packet is a message. */
static __always_inline void copy_datagrams(void *ctx, const bool is_xdp, struct hook_totals *books,
					   const struct packet *packet, u64 segment_bytes)
{
	u64 offset = packet->header_bytes, end = packet->payload_end;
	u64 udp_bytes = payload_u16(ctx, is_xdp, offset - sizeof(u32));
	u64 message_bytes = end - offset;

	/* The first fragment has less than the header says. */
	if (segment_bytes)
		message_bytes = segment_bytes;
	else if (udp_bytes >= sizeof(struct ports_header))
		message_bytes = udp_bytes - sizeof(struct ports_header);
#pragma clang loop unroll(disable)
	for (int count = 0; count < DNS_MESSAGES_MAX && offset < end; count++) {
		u64 available = end - offset;

		copy_message(ctx, is_xdp, books, packet, offset, available,
			     segment_bytes && available < message_bytes ? available
									: message_bytes);
		offset += message_bytes;
	}
	if (offset < end)
		books->lost_dns_messages++;
}

/* Where the first message of this segment begins; its end where none does. */
static __always_inline u64 first_message(const struct dns_stream *stream,
					 const struct packet *packet)
{
	u64 offset = packet->header_bytes;
	u32 ahead = stream->next_sequence - packet->sequence;

	/* Another distance is that of another connection, or of a gap: begin anew. */
	return ahead <= DNS_LONGEST_BYTES ? offset + ahead : offset;
}

static __always_inline void copy_stream(void *ctx, const bool is_xdp, struct hook_totals *books,
					const struct packet *packet)
{
	struct dns_connection key = {
		.src_addr = {packet->key.src_addr[0], packet->key.src_addr[1]},
		.dst_addr = {packet->key.dst_addr[0], packet->key.dst_addr[1]},
		.ports_be = packet->key.ports_be,
		.lane = packet->key.lane,
	};
	struct dns_stream *known = dns_streams.lookup(&key);
	u64 offset = packet->header_bytes, end = packet->payload_end, body_bytes = 0;
	struct dns_stream next;

	if (known) {
		offset = first_message(known, packet);
		if (offset >= end)
			return;
		if (known->next_sequence == packet->sequence + (u32)(offset - packet->header_bytes))
			body_bytes = known->body_bytes;
	}
#pragma clang loop unroll(disable)
	for (int count = 0; count < DNS_MESSAGES_MAX && offset < end; count++) {
		if (!body_bytes) {
			if (end - offset < DNS_PREFIX_BYTES)
				break;
			body_bytes = payload_u16(ctx, is_xdp, offset);
			offset += DNS_PREFIX_BYTES;
			if (offset == end)
				break;
		}
		copy_message(ctx, is_xdp, books, packet, offset, end - offset, body_bytes);
		offset += body_bytes;
		body_bytes = 0;
	}
	if (offset < end) {
		books->lost_dns_messages++;
		body_bytes = 0;
	}
	if (offset <= end && !body_bytes) {
		if (known)
			dns_streams.delete(&key);
		return;
	}
	next.next_sequence = packet->sequence + (u32)(offset - packet->header_bytes);
	next.body_bytes = body_bytes;
	dns_streams.update(&key, &next);
}

static __always_inline void copy_dns(void *ctx, const bool is_xdp, struct hook_totals *books,
				     const struct packet *packet, u64 segment_bytes)
{
	if (packet->key.protocol == IPPROTO_TCP)
		copy_stream(ctx, is_xdp, books, packet);
	else
		copy_datagrams(ctx, is_xdp, books, packet, segment_bytes);
}
#endif
