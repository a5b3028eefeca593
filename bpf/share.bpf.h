/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Maps that the agent reads, and programs that are compiled later share.  The compiler pins each in
 * the folder PINS, by which the loader knows where others find it.
 */
#pragma once

/*
 * The pin of a map whose entries only programs understand: those of other source or configuration,
 * which may mean something else by them, have maps of their own.
 */
#define PRIVATE(name) PINS "/" name "~"

/* The agent maps these into its memory. */
#define SHARED_ARRAY(name, entry, count)                                                           \
	BPF_F_TABLE("array:" PINS "/" #name, u32, entry, name, count, BPF_F_MMAPABLE)

/* Events on their way to the agent, which polls: a wake-up costs the packet's CPU microseconds. */
#if PERF_BUFFER
#define EVENTS(name)                                                                               \
	struct name##_table_t {                                                                    \
		int key;                                                                           \
		u32 leaf;                                                                          \
		int (*perf_submit)(void *, void *, u32);                                           \
		u32 max_entries;                                                                   \
	};                                                                                         \
	__attribute__((section("maps/perf_output:" PINS                                            \
			       "/" #name))) struct name##_table_t name = {.max_entries = 0}
#else
#define EVENTS(name)                                                                               \
	struct name##_table_t {                                                                    \
		int key;                                                                           \
		u32 leaf;                                                                          \
		void *(*ringbuf_reserve)(u64);                                                     \
		void (*ringbuf_discard)(void *, u64);                                              \
		void (*ringbuf_submit)(void *, u64);                                               \
		int (*ringbuf_output)(void *, u64, u64);                                           \
		u32 max_entries;                                                                   \
	};                                                                                         \
	__attribute__((section("maps/ringbuf:" PINS "/" #name))) struct name##_table_t name = {    \
		.max_entries = RING_PAGES * PAGE_SIZE}
#endif
