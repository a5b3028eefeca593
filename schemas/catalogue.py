# SPDX-License-Identifier: Apache-2.0
"""Every event kind and every shared struct, in the order in which they are documented."""

from schemas.control import AGENT_CLOCK, INTERFACE_ENTRY
from schemas.flow import FLOW, FLOW_EVICTION, FLOW_ORIGIN, FLOW_SLOT, LANE, SHAPES
from schemas.ledger import HOOK_TOTALS, LEDGER
from schemas.packet import HEADER_BYTES, PACKET, PACKET_EVENT, REASONS

RECORDS = (FLOW, PACKET, LEDGER)
RECORD_OF_KIND = {record.kind: record for record in RECORDS}
LAYOUTS = (
    FLOW_SLOT,
    FLOW_ORIGIN,
    FLOW_EVICTION,
    PACKET_EVENT,
    HOOK_TOTALS,
    INTERFACE_ENTRY,
    AGENT_CLOCK,
)
BITS = (LANE,)
ENUMS = {"shape": SHAPES, "reason": REASONS}
CONSTANTS = {"HEADER_BYTES": HEADER_BYTES}
