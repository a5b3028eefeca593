# SPDX-License-Identifier: Apache-2.0
"""What the programs know of rules, what they count of them, and the rows that tell of it.

A rule is at most 16 *boxes* (schemas/rules/boxes.py), each of them a condition on every part of a
packet's identity.  A box is a bit.  For every value of a part there is a mask of the boxes that
accept it; what all masks of a packet have in common are the boxes that mean it.  Boxes that ask for
nothing but one address need no bit: the rule stands with the prefix itself.

There are two sets of all tables, one of which the programs read while the agent writes the other.
"""

from schemas import fields as f
from schemas.layout import (
    NAME,
    TIME_NS,
    U8,
    U16,
    U32,
    U64,
    Field,
    Kind,
    Layout,
    Record,
    enum8,
    pad,
)
from schemas.packet import CAPTURED_BYTES, HEADER, HOP_LIMIT

RULE_SETS = 2
# Boxes that need a bit, in all rules together: 64 for people and what the allow list needs.
RULE_BOXES = 128
# Rules at a time.  Each has a rank, by which it is found, and a slot, in which it is counted.
RULE_SLOTS = 1 << 14

RULE_ACTIONS = {"drop": 1, "limit": 2, "pass": 3}
RULE_UNITS = {"packets": 0, "bytes": 1}
RULE_SIDES = {"src": 0, "dst": 1}

# What is known of addresses is in lines of one cache line each, and those in chunks, of which a set
# has as many as it needs.  IPv4 is looked up in lines too, IPv6 in a trie of the kernel's.
LINE_WORDS = 16
CHUNK_LINES = 1 << 14
RULE_CHUNKS = 64
# A word tells what is known of the addresses that it stands for: its lowest bits are the line where
# that is.  Or there is another line, with a word for each of the next four bits of an address.
# All zeros: no rule asks for any of them.
RULE_WORDS = {
    "is_line": 1 << 31,
    "has_ranks": 1 << 30,
    "has_boxes": 1 << 29,
    # Others than those of the allow list, which alone refuses nothing.
    "has_rules": 1 << 28,
}

# Where in a set's table of masks those for each part of a packet begin.  Type and code of ICMP
# stand where others have their source port, in the flow cache as here.
_PARTS = {
    "protocol": 256,
    "flags": 256,
    "dscp": 64,
    "version": 64,
    "vlan": 4096,
    "point": 4096,
    "src_port": 65536,
    "dst_port": 65536,
}
RULE_PARTS = {name: sum(list(_PARTS.values())[:number]) for number, name in enumerate(_PARTS)}
RULE_MASKS = sum(_PARTS.values())
# The bit of each part, by which a set tells whether any box asks for it.
RULE_ASKS = {name: 1 << number for number, name in enumerate(_PARTS)}
# The fractions of a nanosecond in which the price of a packet or byte is kept: 2^-16.
PRICE_SHIFT = 16

MASK = Kind("__u64", "|V16", "", 16, 8, count=2)

RULE_CONTROL = Layout(
    "rule_control",
    "Whether there are rules, and in which set.",
    (
        Field("is_on", U8, "0 where no packet need be asked about"),
        Field("is_on_ipv6", U8, "0 where no packet of IPv6 need be"),
        pad(2),
        Field("set", U32, "the set that counts, 0 or 1"),
    ),
)

RULE_SET = Layout(
    "rule_set",
    "What is known of a whole set of rules.",
    (
        Field("enforced", MASK, "boxes of rules that are enforced; others are observed"),
        Field("any_src", U32, "the word of a source of IPv6 which no prefix covers"),
        Field("any_dst", U32, "the word of such a destination"),
        Field("has_src_ipv6", U8, "1 where any prefix of sources is known, of IPv6"),
        Field("has_dst_ipv6", U8, "the same of destinations"),
        Field("asks", U8, "the parts of a packet that any box asks for, as bits"),
        pad(5),
    ),
)

RULE_MASK = Layout(
    "rule_mask",
    "The boxes that accept one value of one part of a packet.",
    (Field("boxes", MASK, "bit n of word w stands for box 64 * w + n"),),
)

RULE_PREFIX_KEY = Layout(
    "rule_prefix_key",
    "A prefix of one side, as the kernel's trie wants it.",
    (
        Field("bits", U32, "length of the prefix, that of the side, 32, included"),
        Field("side", U32, "source or destination"),
        Field("packed", f.SRC_ADDR.kind, "the address, which is none of IPv4"),
    ),
)

RULE_KNOWN = Layout(
    "rule_known",
    "What rules say of addresses: of all of which the same is known.",
    (
        Field("boxes", MASK, "boxes that accept the address"),
        Field("enforced", U32, "rank of the first rule that asks for nothing else; 0: none"),
        Field("observed", U32, "the same, of rules that are observed"),
    ),
)

RULE_ENTRY = Layout(
    "rule_entry",
    "One rule, found by its rank, which begins with 1.",
    (
        Field("until_jiffies", U64, "jiffies_64 at which it ends; 0: never"),
        Field("price", U64, "of a packet or byte, in 2^-16 ns: the inverse of the rate"),
        Field("burst_ns", U64, "how far ahead of its rate it may run"),
        Field("slot", U32, "where it is counted"),
        Field("action", U8, "drop, limit or pass"),
        Field("unit", U8, "of a limit: packets or bytes"),
        Field("is_per_source", U8, "1 where every source has a limit of its own"),
        Field("versions", U8, "bit 0: IPv4, bit 1: IPv6; of a rule that stands with prefixes"),
    ),
)

RULE_RANK = Layout(
    "rule_rank",
    "The rule that a box belongs to.",
    (Field("rank", U32, "0 where the box belongs to none"), pad(4)),
)

RULE_SOURCE = Layout(
    "rule_source",
    "Whose bucket it is, where every source has its own.",
    (
        f.SRC_ADDR,
        Field("slot", U32, "of the rule"),
        pad(4),
    ),
)

RULE_BUCKET = Layout(
    "rule_bucket",
    "How far a limit is used up.",
    (Field("paid_until_ns", U64, "CLOCK_MONOTONIC up to which its rate is used up"),),
)

_HIT_PACKETS = Field("hit_packets", U64, "packets that the rule was asked about", f.COUNTER_CODEC)
_HIT_BYTES = Field("hit_bytes", U64, "bytes of those", f.COUNTER_CODEC)
_OVER_PACKETS = Field(
    "over_packets",
    U64,
    "of those, packets that it refused, or would refuse if it were enforced",
    f.COUNTER_CODEC,
)
_OVER_BYTES = Field("over_bytes", U64, "bytes of those", f.COUNTER_CODEC)

RULE_BOOKS = Layout(
    "rule_books",
    "What one CPU has counted of one rule.",
    (
        _HIT_PACKETS,
        _HIT_BYTES,
        _OVER_PACKETS,
        _OVER_BYTES,
        Field("sampled_jiffies", U64, "when the headers of a packet were kept last"),
    ),
)

VERDICTS = {"refused": 1, "observed": 2}
STATES = {"observed": 1, "enforced": 2, "expired": 3, "removed": 4, "rejected": 5}

_RULE = Field("rule", NAME, "name of the rule")

DROP = Record(
    kind="drop",
    table="drops",
    doc=(
        "Headers of packets that a rule refused, or would have: the first ones, then one every few"
        " milliseconds for each rule and CPU.  How many there were is in `rules`."
    ),
    fields=(
        f.TIME,
        f.INTERFACE,
        f.DIRECTION,
        _RULE,
        Field(
            "verdict",
            enum8(**VERDICTS),
            "`refused`: the packet went no further; `observed`: it did, since the rule is observed",
        ),
        f.SRC_ADDR,
        f.DST_ADDR,
        f.SRC_PORT,
        f.DST_PORT,
        f.PROTOCOL,
        f.ETHERTYPE,
        f.VLAN,
        f.DSCP,
        f.ICMP_TYPE,
        f.ICMP_CODE,
        f.TCP_FLAGS,
        HOP_LIMIT,
        f.PACKETS.of(U16, "1, or the segments of a super-packet"),
        f.BYTES.of(U32, "length of the frame; of a super-packet, of all its segments"),
        CAPTURED_BYTES,
        HEADER,
        *f.SURROUNDINGS,
    ),
    order_by="toStartOfMinute(time), node, rule, src_addr, dst_addr, time",
)

RULE = Record(
    kind="rule",
    table="rules",
    doc=(
        "What a rule has counted on one node from `since` until `time`, after each interval in"
        " which packets met it or something about it changed.  Counts only grow, so that the latest"
        " row alone tells all of it; a rule that is enforced, or put again, begins anew."
    ),
    fields=(
        f.TIME.of(TIME_NS, "wall time of the counts, nanoseconds since the epoch"),
        _RULE,
        Field("since", TIME_NS, "wall time from which it counts", f.TIME_CODEC),
        Field(
            "state",
            enum8(**STATES),
            "`observed`: it changes nothing, and counts what it would refuse; `enforced`;"
            " `expired`: its end has come; `removed`; `rejected`: it came by the network and is not"
            " obeyed",
        ),
        Field("enforced", U8, "1 where it decides about packets, 0 where it only counts them"),
        Field("action", enum8(**RULE_ACTIONS), "what becomes of packets that it means"),
        _HIT_PACKETS,
        _HIT_BYTES,
        _OVER_PACKETS,
        _OVER_BYTES,
        Field("until", TIME_NS, "wall time at which it ends, 1970 where it has no end"),
        Field("priority", U16, "rules of higher priority are asked first"),
        Field("origin", NAME, "`local`, `file` or `network`: how it came to the agent"),
        Field("owner", NAME, "who answers for it"),
        Field("why", NAME, "the reason that its owner gave, or why it was rejected"),
        Field("meaning", NAME, "the packets that it means, as a filter"),
    ),
    order_by="time, node, rule, since",
)
