# SPDX-License-Identifier: Apache-2.0
"""The ledger: what a hook saw in one interval, and what became of it.

For every row `seen = flow + pending`: packets that the hook saw are in flow rows, or will be
in the next interval's.  Flow rows include those under `overflow`, where the kernel had no room
for the detail of a flow and only its totals survived.
"""

from schemas import fields as f
from schemas.layout import U64, Field, Layout, Record, enum8, pad

HOOKS = {"xdp": 1, "xdp_generic": 2, "tcx": 3, "clsact": 4, "replay": 5}


def _counter(name: str, doc: str) -> Field:
    return Field(name, U64, doc, f.COUNTER_CODEC)


SEEN_PACKETS = _counter("seen_packets", "packets that the hook saw")
SEEN_BYTES = _counter("seen_bytes", "bytes that the hook saw")
NEW_FLOWS = _counter("new_flows", "flows that took a slot of the flow cache")
EVICTIONS = _counter("evictions", "flows that left the cache for another, with their detail")
OVERFLOWS = _counter("overflows", "flows that left the cache when the ring buffer had no room")
SAMPLES = _counter("samples", "packet headers put into the ring buffer")
LOST_SAMPLES = _counter("lost_samples", "packet headers that the ring buffer had no room for")
TRUNCATED_PACKETS = _counter(
    "truncated_packets",
    "packets whose headers ended early; they are counted by what could be read",
)
FRAGMENT_PACKETS = _counter("fragment_packets", "fragments after the first of their packet")
UNMATCHED_FRAGMENT_PACKETS = _counter(
    "unmatched_fragment_packets",
    "of those, the ones whose first fragment was not seen, so that they have no ports",
)
TUNNEL_PACKETS = _counter("tunnel_packets", "packets in which another packet was found")
CONTEXT_OVERFLOW_PACKETS = _counter(
    "context_overflow_packets",
    "packets counted without their second tag or what is in their tunnel, for lack of room",
)

LOST_DNS_MESSAGES = _counter(
    "lost_dns_messages", "DNS messages that the event buffer had no room for"
)
LOST_TLS_HELLOS = _counter(
    "lost_tls_hellos", "TLS ClientHellos, or parts of one, that the event buffer had no room for"
)

EXTRA_PACKETS = _counter(
    "extra_packets",
    "of `seen_packets`, segments of super-packets beyond the first of each, which the interface"
    " itself may count as one",
)
EXTRA_BYTES = _counter(
    "extra_bytes",
    "of `seen_bytes`, headers of those segments, and VLAN tags that are kept beside the packet",
)

DROPPED_PACKETS = _counter(
    "dropped_packets", "of `seen_packets`, those that a rule refused: they went no further"
)
DROPPED_BYTES = _counter("dropped_bytes", "bytes of `dropped_packets`")
DROPPED_EXTRA_PACKETS = _counter("dropped_extra_packets", "of `dropped_packets`, `extra_packets`")
DROPPED_EXTRA_BYTES = _counter("dropped_extra_bytes", "of `dropped_bytes`, `extra_bytes`")

HOOK_TOTALS = Layout(
    "hook_totals",
    "The books of one hook point on one CPU: exactly four cache lines.",
    (
        SEEN_PACKETS,
        SEEN_BYTES,
        Field("sample_countdown", U64, "packets to pass before the next one is sampled"),
        NEW_FLOWS,
        EVICTIONS,
        OVERFLOWS,
        Field("overflow_packets", U64, "packets that those flows had counted"),
        Field("overflow_bytes", U64, "bytes that those flows had counted"),
        SAMPLES,
        LOST_SAMPLES,
        TRUNCATED_PACKETS,
        FRAGMENT_PACKETS,
        UNMATCHED_FRAGMENT_PACKETS,
        TUNNEL_PACKETS,
        CONTEXT_OVERFLOW_PACKETS,
        LOST_DNS_MESSAGES,
        LOST_TLS_HELLOS,
        EXTRA_PACKETS,
        EXTRA_BYTES,
        Field("evicted_packets", U64, "packets of the flows that went into the eviction buffer"),
        Field("evicted_bytes", U64, "bytes of those"),
        DROPPED_PACKETS,
        DROPPED_BYTES,
        DROPPED_EXTRA_PACKETS,
        DROPPED_EXTRA_BYTES,
        pad(56),
    ),
)

LEDGER = Record(
    kind="ledger",
    table="ledger",
    doc="The books of one interface and direction over one interval: everything is accounted for.",
    fields=(
        f.TIME,
        f.END,
        f.INTERFACE,
        f.DIRECTION,
        Field("hook", enum8(**HOOKS), "where the packets were counted"),
        SEEN_PACKETS,
        SEEN_BYTES,
        _counter("flow_packets", "packets in this interval's flow rows"),
        _counter("flow_bytes", "bytes in this interval's flow rows"),
        NEW_FLOWS,
        EVICTIONS,
        OVERFLOWS,
        _counter(
            "overflow_packets",
            "packets in this interval's flow rows that stand for flows whose detail is lost",
        ),
        _counter("overflow_bytes", "bytes of `overflow_packets`"),
        SAMPLES,
        LOST_SAMPLES,
        TRUNCATED_PACKETS,
        _counter("link_packets", "packets by the interface's own counters"),
        _counter("link_bytes", "bytes by the interface's own counters"),
        FRAGMENT_PACKETS,
        UNMATCHED_FRAGMENT_PACKETS,
        TUNNEL_PACKETS,
        CONTEXT_OVERFLOW_PACKETS,
        LOST_DNS_MESSAGES,
        LOST_TLS_HELLOS,
        _counter(
            "rejected_dns_messages",
            "DNS messages that could not be read; those with a whole header are rows all the same",
        ),
        _counter(
            "rejected_tls_hellos",
            "TLS ClientHellos that could not be read to their end; they are rows all the same",
        ),
        _counter(
            "lost_packets",
            "packets in flow rows of whatever interval that were given up in this one, because the"
            " spool was full",
        ),
        _counter("lost_bytes", "bytes of `lost_packets`"),
        EXTRA_PACKETS,
        EXTRA_BYTES,
        _counter(
            "flow_seq",
            "number of the run's next batch of flows: this interval's rows are in those before it",
        ),
        DROPPED_PACKETS,
        DROPPED_BYTES,
        DROPPED_EXTRA_PACKETS,
        DROPPED_EXTRA_BYTES,
    ),
    order_by="time, node, interface, direction",
)
