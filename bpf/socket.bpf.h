/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What we remember of each socket, and how it is reported.
 *
 * It is stored with the socket itself, so that there is no table to fill up, and nothing to delete.
 * What an accepted socket starts with is its listener's: that is how it knows a process at all,
 * since the kernel makes it where no process runs.
 */
#pragma once

#include "events.h"
#include "share.bpf.h"

/* What has happened to a socket. */
#define NOTE_ANNOUNCED	   1 /* UDP: there is an `open` event */
#define NOTE_CONNECTING	   2 /* the first SYN was sent */
#define NOTE_ESTABLISHED   4
#define NOTE_ACCEPTED	   8  /* the process that accepted it is known */
#define NOTE_RELEASED	   16 /* the last process has closed it */
#define NOTE_FIN_SENT	   32
#define NOTE_FIN_RECEIVED  64
#define NOTE_RETRANSMITTED 128

struct socket_state {
	u64 start_ns;
	u64 connect_ns; /* when the first SYN was sent */
	u64 handshake_ns;
	u64 bytes_at_fin;  /* received when the peer had acknowledged our FIN */
	u64 local_addr[2]; /* UDP only, as is local_port */
	u64 cgroup_id;
	u64 netns_cookie;
	u8 command[COMMAND_BYTES];
	u32 pid;
	u32 uid;
	u32 reported_jiffies;	    /* of the latest event */
	u32 segments_at_retransmit; /* received when we last sent a segment again */
	u16 local_port;
	u8 role;
	u8 ending; /* who sent the first FIN */
	u32 notes;
};

/*
 * Who writes: the programs that run for this socket.  The kernel deletes it with the socket.  Pinned,
 * so that what is known of sockets stays with them when the next agent replaces the programs.
 */
struct socket_states_table_t {
	int key;
	struct socket_state leaf;
	void *(*sk_storage_get)(void *, void *, int);
	int (*sk_storage_delete)(void *);
	u32 flags;
};
__attribute__((section("maps/sk_storage:" PRIVATE(
	"socket_states")))) struct socket_states_table_t socket_states = {
	.flags = BPF_F_NO_PREALLOC | BPF_F_CLONE,
};
BPF_ANNOTATE_KV_PAIR(socket_states, int, struct socket_state);

/* Key: CPU.  The agent maps it to read. */
SHARED_ARRAY(socket_totals, struct socket_totals, CPUS);
EVENTS(sockets);

/* bcc declares it with half of its result. */
static u64 (*socket_cookie_of)(void *ctx) = (void *)BPF_FUNC_get_socket_cookie;

static __always_inline struct socket_state *known_state(struct bpf_sock *sk)
{
	return sk ? socket_states.sk_storage_get(sk, NULL, 0) : NULL;
}

static __always_inline void count_event(bool is_lost)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct socket_totals *totals = socket_totals.lookup(&cpu);

	if (!totals)
		return;
	/* Atomic, because a softirq on this CPU may come between: some hooks run in processes. */
	if (is_lost)
		__sync_fetch_and_add(&totals->lost_events, 1);
	else
		__sync_fetch_and_add(&totals->events, 1);
}

/* A socket without state is one whose events are lost. */
static __always_inline struct socket_state *state_of(struct bpf_sock *sk)
{
	struct socket_state *state;

	if (!sk)
		return NULL;
	state = socket_states.sk_storage_get(sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state)
		count_event(true);
	return state;
}

/* Notes the process that runs.  Only where the kernel works for one, never in a softirq. */
static __always_inline void take_owner(void *ctx, struct socket_state *state)
{
	state->pid = bpf_get_current_pid_tgid() >> 32;
	state->uid = bpf_get_current_uid_gid();
	state->cgroup_id = bpf_get_current_cgroup_id();
	state->netns_cookie = bpf_get_netns_cookie(ctx);
	bpf_get_current_comm(state->command, sizeof(state->command));
}

static __always_inline void map_ipv4(u64 *addr, u32 ipv4_be)
{
	addr[0] = 0;
	addr[1] = (u64)ipv4_be << 32 | 0xffff0000;
}

/*
 * A macro, because contexts differ; volatile, because the verifier takes words only, and clang joins
 * two that are side by side.
 */
#define WORD(field) (*(const volatile u32 *)&(field))
#define copy_ipv6(addr, words)                                                                     \
	do {                                                                                       \
		(addr)[0] = (u64)WORD((words)[1]) << 32 | WORD((words)[0]);                        \
		(addr)[1] = (u64)WORD((words)[3]) << 32 | WORD((words)[2]);                        \
	} while (0)

/* Adds what the state knows, and sends the event. */
static __always_inline void report(void *ctx, struct socket_event *event,
				   struct socket_state *state, u8 kind)
{
	long refused;

	event->seen_ns = bpf_ktime_get_ns();
	event->cookie = socket_cookie_of(ctx);
	event->event = kind;
	event->start_ns = state->start_ns ?: event->seen_ns;
	event->handshake_ns = state->handshake_ns;
	event->cgroup_id = state->cgroup_id;
	event->netns_cookie = state->netns_cookie;
	event->pid = state->pid;
	event->uid = state->uid;
	event->role = state->role;
	__builtin_memcpy(event->command, state->command, sizeof(event->command));
#if PERF_BUFFER
	refused = sockets.perf_submit(ctx, event, sizeof(*event));
#else
	refused = sockets.ringbuf_output(event, sizeof(*event), BPF_RB_NO_WAKEUP);
#endif
	count_event(refused < 0);
}
