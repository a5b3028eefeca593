# SPDX-License-Identifier: Apache-2.0
"""The columns of `dns` and `tls` records, from events as the kernel wrote them.

Both readers remember something between two calls: queries without a response yet, and hellos of
which a part is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.clock import Anchor
from agent.columns import Columns, typed
from agent.dns import HEADER_BYTES, Messages, read_messages
from agent.exchanges import Exchanges
from agent.hellos import Assembly
from agent.keys import Hashing, halves
from agent.points import HookPoints
from agent.rows import Rows, as_bytes, chosen
from agent.tls import read_hellos
from schemas.dns import DNS, DNS_EVENT, DNS_MESSAGE_BYTES
from schemas.dtype import unpack
from schemas.flow import LANE
from schemas.tls import TLS

_TCP = 6
_MESSAGE_AT = DNS_EVENT.size_bytes - DNS_MESSAGE_BYTES

# Takes the hook points at which something could not be read.
Reject = Callable[[NDArray[Any]], None]


@dataclass(slots=True)
class DnsReader:
    """Reads `dns` events."""

    reject: Reject
    _exchanges: Exchanges = field(default_factory=Exchanges)
    _hashing: Hashing = field(default_factory=Hashing)

    def columns(self, events: Rows, points: HookPoints, anchor: Anchor) -> Columns:
        is_whole = events["captured_bytes"] >= HEADER_BYTES
        self.reject(unpack(LANE, "point", events["lane"][~is_whole]))
        if not is_whole.all():
            events = chosen(events, is_whole)
        starts = np.arange(len(events)) * DNS_EVENT.size_bytes + _MESSAGE_AT
        lengths = events["captured_bytes"].astype(np.int64)
        found = read_messages(Messages(as_bytes(events).reshape(-1), starts, lengths))
        self.reject(unpack(LANE, "point", events["lane"][found["is_malformed"]]))
        return typed(
            DNS,
            {
                "time": anchor.wall_from_monotonic(events["seen_ns"]),
                **_places(events, points),
                "protocol": events["protocol"],
                **found,
                "message_bytes": events["message_bytes"],
                "latency_ns": self._latencies(events, points, found),
            },
        )

    def _latencies(
        self, events: Rows, points: HookPoints, found: dict[str, Any]
    ) -> NDArray[np.int64]:
        """Both directions of an interface are one place: some only mirror what they see."""
        is_response = found["is_response"]
        ends = [
            [*halves(events[f"{end}_addr"]), events[f"{end}_port_be"]] for end in ("src", "dst")
        ]
        words = [np.where(is_response, dst, src) for src, dst in zip(*ends, strict=True)]
        words += [np.where(is_response, src, dst) for src, dst in zip(*ends, strict=True)]
        words += [events["protocol"], found["id"], found["query_type"]]
        words += [points.interfaces(unpack(LANE, "point", events["lane"]))]
        words += [self._hashing.of_names(found["query_name"])]
        times = events["seen_ns"].astype(np.int64)
        return self._exchanges.latencies(self._hashing.keys(words), times, is_response)


@dataclass(slots=True)
class TlsReader:
    """Reads `tls` events; with `is_last` set, also hellos of which a part is missing."""

    reject: Reject
    is_last: bool = False
    _assembly: Assembly = field(default_factory=Assembly)

    def is_waiting(self) -> bool:
        return len(self._assembly) > 0

    def columns(self, events: Rows, points: HookPoints, anchor: Anchor) -> Columns:
        events, hellos = self._assembly.join(events, anchor.monotonic_ns, is_last=self.is_last)
        found = read_hellos(hellos)
        self.reject(unpack(LANE, "point", events["lane"][found["is_malformed"]]))
        return typed(
            TLS,
            {
                "time": anchor.wall_from_monotonic(events["seen_ns"]),
                **_places(events, points),
                "protocol": np.full(len(events), _TCP),
                **found,
            },
        )


def _places(events: Rows, points: HookPoints) -> dict[str, Any]:
    return {
        **points.columns(unpack(LANE, "point", events["lane"])),
        "src_addr": events["src_addr"],
        "dst_addr": events["dst_addr"],
        "src_port": events["src_port_be"].byteswap(),
        "dst_port": events["dst_port_be"].byteswap(),
    }
