# SPDX-License-Identifier: Apache-2.0
"""Every event kind and every shared struct, in the order in which they are documented."""

from schemas.alert import ALERT
from schemas.capture import CAPTURE_BOOKS, CAPTURE_BYTES, CAPTURE_SLOTS, CAPTURED_FRAME
from schemas.control import AGENT_CLOCK, INTERFACE_ENTRY
from schemas.delivery import DELIVERY
from schemas.dns import DNS, DNS_EVENT, DNS_MESSAGE_BYTES
from schemas.fields import DIRECTIONS, TUNNELS
from schemas.flow import (
    CONTEXT_LANE,
    FLOW,
    FLOW_CONTEXT,
    FLOW_EVICTION,
    FLOW_ORIGIN,
    FLOW_SLOT,
    LANE,
    SHAPES,
)
from schemas.interface import INTERFACE
from schemas.ledger import HOOK_TOTALS, LEDGER
from schemas.packet import HEADER_BYTES, PACKET, PACKET_EVENT, REASONS, REFUSALS
from schemas.refusal import (
    CHUNK_LINES,
    DROP,
    LINE_WORDS,
    PRICE_SHIFT,
    RULE,
    RULE_ACTIONS,
    RULE_ASKS,
    RULE_BOOKS,
    RULE_BOXES,
    RULE_BUCKET,
    RULE_CHUNKS,
    RULE_CONTROL,
    RULE_ENTRY,
    RULE_KNOWN,
    RULE_MASK,
    RULE_MASKS,
    RULE_PARTS,
    RULE_PREFIX_KEY,
    RULE_RANK,
    RULE_SET,
    RULE_SETS,
    RULE_SIDES,
    RULE_SLOTS,
    RULE_SOURCE,
    RULE_UNITS,
    RULE_WORDS,
)
from schemas.rejection import REJECTION
from schemas.socket import (
    COMMAND_BYTES,
    ENDINGS,
    EVENTS,
    ROLES,
    SOCKET,
    SOCKET_EVENT,
    SOCKET_TOTALS,
)
from schemas.succession import FLOW_REPORTED, HOOK_PAIR
from schemas.tls import TLS, TLS_CHUNK_BYTES, TLS_EVENT, TLS_HELLO_BYTES

RECORDS = (
    FLOW,
    PACKET,
    SOCKET,
    DNS,
    TLS,
    LEDGER,
    DELIVERY,
    INTERFACE,
    REJECTION,
    DROP,
    RULE,
    ALERT,
)
RECORD_OF_KIND = {record.kind: record for record in RECORDS}
LAYOUTS = (
    FLOW_SLOT,
    FLOW_CONTEXT,
    FLOW_ORIGIN,
    FLOW_EVICTION,
    PACKET_EVENT,
    SOCKET_EVENT,
    DNS_EVENT,
    TLS_EVENT,
    HOOK_TOTALS,
    SOCKET_TOTALS,
    INTERFACE_ENTRY,
    AGENT_CLOCK,
    CAPTURED_FRAME,
    CAPTURE_BOOKS,
    RULE_CONTROL,
    RULE_SET,
    RULE_MASK,
    RULE_PREFIX_KEY,
    RULE_KNOWN,
    RULE_ENTRY,
    RULE_RANK,
    RULE_SOURCE,
    RULE_BUCKET,
    RULE_BOOKS,
)
# Kept in maps that the programs do not know of.
SUCCESSION = (FLOW_REPORTED, HOOK_PAIR)
BITS = (LANE, CONTEXT_LANE)
ENUMS = {
    "shape": SHAPES,
    "direction": DIRECTIONS,
    "tunnel": TUNNELS,
    "reason": REASONS | REFUSALS,
    "event": EVENTS,
    "role": ROLES,
    "ending": ENDINGS,
    "rule_action": RULE_ACTIONS,
    "rule_unit": RULE_UNITS,
    "rule_side": RULE_SIDES,
    "rule_part": RULE_PARTS,
    "rule_asks": RULE_ASKS,
    "rule_word": RULE_WORDS,
}
CONSTANTS = {
    "CAPTURE_BYTES": CAPTURE_BYTES,
    "CAPTURE_SLOTS": CAPTURE_SLOTS,
    "HEADER_BYTES": HEADER_BYTES,
    "COMMAND_BYTES": COMMAND_BYTES,
    "DNS_MESSAGE_BYTES": DNS_MESSAGE_BYTES,
    "TLS_CHUNK_BYTES": TLS_CHUNK_BYTES,
    "TLS_HELLO_BYTES": TLS_HELLO_BYTES,
    "RULE_SETS": RULE_SETS,
    "RULE_BOXES": RULE_BOXES,
    "RULE_SLOTS": RULE_SLOTS,
    "RULE_MASKS": RULE_MASKS,
    "RULE_CHUNKS": RULE_CHUNKS,
    "RULE_CHUNK_LINES": CHUNK_LINES,
    "RULE_LINE_WORDS": LINE_WORDS,
    "RULE_PRICE_SHIFT": PRICE_SHIFT,
}
