/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What rules have to do with an address.
 *
 * An address has a word: whether any rule means it, and where the rest of what is known of it stands.
 * That of IPv4 is found by its first 16 bits, and where those do not decide in lines of 16 words
 * (agent/rules/lines.py), in four more steps at most, however many prefixes there are; that of IPv6 in a
 * trie (agent/rules/tries.py).
 */
#pragma once

#include "maps.bpf.h"
#include "parse.h"

/* What a set is made of is written before the control names it; see agent/rules/tables.py. */
SHARED_ARRAY(rule_control, struct rule_control, 1);

/* A part of what is known of addresses; one is kept as a whole, so finding a word in it is adding. */
struct rule_chunk {
	u32 words[RULE_CHUNK_LINES * RULE_LINE_WORDS];
};

/*
 * What the elements of the next two are like; never used.  A chunk has more than one word, but bcc
 * would make code for each.
 */
struct rule_chunk_table_t {
	u32 key;
	u32 leaf;
	u32 max_entries;
	int flags;
};
__attribute__((section("maps/array"))) struct rule_chunk_table_t rule_chunk = {
	.max_entries = 1, .flags = BPF_F_MMAPABLE};
struct rule_trie_table_t {
	struct rule_prefix_key key;
	u32 leaf;
	u32 max_entries;
	int flags;
};
__attribute__((section("maps/lpm_trie"))) struct rule_trie_table_t rule_trie = {
	.max_entries = 1, .flags = BPF_F_NO_PREALLOC};
#define ARRAY_OF_MAPS(name, pattern, count)                                                        \
	struct name##_table_t {                                                                    \
		int key;                                                                           \
		u32 leaf;                                                                          \
		void *(*lookup)(int *);                                                            \
		u32 max_entries;                                                                   \
	};                                                                                         \
	__attribute__((section("maps/array_of_maps$" #pattern ":" PINS                             \
			       "/" #name))) struct name##_table_t name = {.max_entries = count}
/* Key: set * RULE_CHUNKS + chunk.  The agent makes it, and the chunks; see agent/rules/lines.py. */
ARRAY_OF_MAPS(rule_chunks, rule_chunk, RULE_SETS *RULE_CHUNKS);
/* Key: set.  Of IPv6.  The agent makes it, and the tries in it; see agent/rules/tries.py. */
ARRAY_OF_MAPS(rule_tries, rule_trie, RULE_SETS);

#define ADDRESS_BITS 128
#define SIDE_BITS    32
/* The third of the four words of an address to which IPv4 is mapped. */
#define MAPPED_WORD 0xffff0000U

/* The address of its only element, as that of the_clock in maps.bpf.h. */
#define bpf_map_lookup_elem(map, key) (map)
static __always_inline struct rule_control *the_rules(void)
{
	u32 zero = 0;

	return rule_control.lookup(&zero);
}
#undef bpf_map_lookup_elem

static __always_inline bool has_rules(void)
{
	return the_rules()->is_on;
}

static __always_inline bool is_ipv4(const u64 *addr)
{
	return !addr[0] && (u32)addr[1] == MAPPED_WORD;
}

static __always_inline struct rule_chunk *chunk_at(u32 set, u32 chunk)
{
	int index = set * RULE_CHUNKS + chunk, zero = 0;
	void *array = rule_chunks.lookup(&index);

	return array ? bpf_map_lookup_elem(array, &zero) : NULL;
}

/*
 * The chunk with the line that a word names.  Most are in the first one, which is at hand: the CPU goes
 * on with that before it knows.
 */
static __always_inline struct rule_chunk *chunk_of(u32 set, struct rule_chunk *head, u32 word)
{
	u32 chunk = word / RULE_CHUNK_LINES % RULE_CHUNKS;

	return chunk ? chunk_at(set, chunk) : head;
}

/* The word of an address of IPv4 by its first 16 bits, with which the first chunk begins. */
static __always_inline u32 ipv4_head_word(const struct rule_chunk *head, bool is_dst, u32 ipv4)
{
	return head->words[(is_dst << 16) + (ipv4 >> 16)];
}

/* Goes on from the first word of an address of IPv4: each line decides by four more bits. */
static __always_inline u32 ipv4_word(u32 set, struct rule_chunk *head, u32 word, u32 ipv4)
{
#pragma unroll
	for (int shift = 12; shift >= 0; shift -= 4) {
		struct rule_chunk *chunk;

		if (!(word & RULE_WORD_IS_LINE))
			break;
		chunk = chunk_of(set, head, word);
		if (!chunk)
			return 0;
		word = chunk->words[word % RULE_CHUNK_LINES * RULE_LINE_WORDS +
				    (ipv4 >> shift) % RULE_LINE_WORDS];
	}
	return word;
}

static __always_inline u32 ipv6_word(const struct rule_set *set, u32 number, bool is_dst,
				     const u64 *addr)
{
	struct rule_prefix_key key = {SIDE_BITS + ADDRESS_BITS,
				      is_dst ? RULE_SIDE_DST : RULE_SIDE_SRC,
				      {addr[0], addr[1]}};
	u32 any = is_dst ? set->any_dst : set->any_src;
	int index = number;
	void *trie;
	u32 *word;

	if (!(is_dst ? set->has_dst_ipv6 : set->has_src_ipv6))
		return any;
	trie = rule_tries.lookup(&index);
	word = trie ? bpf_map_lookup_elem(trie, &key) : NULL;
	return word ? *word : any;
}

static __always_inline struct rule_known *known_at(u32 set, struct rule_chunk *head, u32 word)
{
	struct rule_chunk *chunk = word ? chunk_of(set, head, word) : NULL;

	return chunk ? (void *)&chunk->words[word % RULE_CHUNK_LINES * RULE_LINE_WORDS] : NULL;
}

/* Whether rules may mean a packet, by the words of its addresses. */
static __always_inline bool is_asked_about(u32 src, u32 dst)
{
	return (src | dst) & RULE_WORD_HAS_RANKS || src & dst & RULE_WORD_HAS_RULES;
}

/* What is seen of an address at once: its first word, or that of IPv6 there may be anything. */
static __always_inline u32 glimpse(const struct rule_control *control,
				   const struct rule_chunk *head, bool is_dst, const u64 *addr)
{
	if (is_ipv4(addr))
		return ipv4_head_word(head, is_dst, BE32((u32)(addr[1] >> 32)));
	return control->is_on_ipv6 ? RULE_WORD_HAS_RANKS | RULE_WORD_HAS_RULES : 0;
}

/* Whether rules may mean a packet between these addresses of IPv4, as their first words tell. */
static __always_inline bool may_be_meant(u32 src_be, u32 dst_be)
{
	const struct rule_control *control = the_rules();
	struct rule_chunk *head;

	if (!control->is_on)
		return false;
	head = chunk_at(control->set & 1, 0);
	return !head || is_asked_about(ipv4_head_word(head, false, BE32(src_be)),
				       ipv4_head_word(head, true, BE32(dst_be)));
}

/* The word that tells what is known of an address, of which the first one was seen. */
static __always_inline u32 word_of(const struct rule_set *set, u32 number, struct rule_chunk *head,
				   bool is_dst, u32 word, const u64 *addr)
{
	if (is_ipv4(addr))
		return ipv4_word(number, head, word, BE32((u32)(addr[1] >> 32)));
	return ipv6_word(set, number, is_dst, addr);
}
