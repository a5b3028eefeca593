# SPDX-License-Identifier: Apache-2.0
"""Write down whose packets each pair of hook points counts, in memory that outlives us.

An entry is written before the programs may count for it, and is there at once: no commit is waited
for.  So whoever comes after an agent that was killed knows every interface that it had attached
to, and what to call the packets of those that are gone.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

import numpy as np

from agent.checkpoint import shared_array
from agent.interfaces import LinkCounters
from agent.plan import FIRST_POINT, Pins
from agent.rows import Rows
from schemas.dtype import dtype_from_layout
from schemas.succession import HOOK_PAIR, NAME_BYTES, PAIR_STATES

REGISTER = "register"
FREE, TAKEN, SETTLING = PAIR_STATES["free"], PAIR_STATES["taken"], PAIR_STATES["settling"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One pair that is not free."""

    number: int
    name: str
    is_settling: bool
    netns: int
    ifindex: int
    mac: str
    link_bytes: int
    # Ingress and egress, as schemas.ledger.HOOKS; 0 where attaching had not come to its end.
    hooks: tuple[int, int]
    counters: LinkCounters  # what the interface had counted when it came to the pair
    is_qdisc_ours: bool
    is_jumbo: bool

    @property
    def netns_label(self) -> str:
        """How its network namespace was given; empty for the agent's own."""
        return self.name.rpartition("/")[0]


class Register:
    """The pairs by their number; a plain array where nothing is to outlive us."""

    def __init__(self, pairs: int, rows: Rows | None = None) -> None:
        self._rows = np.zeros(pairs, dtype_from_layout(HOOK_PAIR)) if rows is None else rows

    @classmethod
    def pinned(cls, pins: Pins, hook_points: int) -> "Register":
        """That of the agent with these pins."""
        pairs = pair_count(hook_points)
        memory = shared_array(pins.map(REGISTER), value_bytes=HOOK_PAIR.size_bytes, count=pairs)
        return cls(pairs, np.frombuffer(memory, dtype_from_layout(HOOK_PAIR), pairs))

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, number: int, name: str) -> None:
        """Give the pair to an interface of that full name."""
        row = self._rows[number]
        row["ingress_hook"] = row["egress_hook"] = 0
        row["name"] = np.void(name.encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0"))
        row["state"] = TAKEN

    def place(self, number: int, *, netns: int, ifindex: int, mac: str, link_bytes: int) -> None:
        """Note which interface it is."""
        row = self._rows[number]
        row["netns"], row["ifindex"], row["link_bytes"] = netns, ifindex, link_bytes
        row["mac"] = np.void(mac.encode()[:32].ljust(32, b"\0"))

    def attach(
        self,
        number: int,
        hooks: tuple[int, int],
        counters: LinkCounters,
        *,
        is_qdisc_ours: bool,
        is_jumbo: bool,
    ) -> None:
        """Note by which programs its packets are counted, and what it had counted before."""
        row = self._rows[number]
        for name, value in asdict(counters).items():
            row[name] = value
        row["is_qdisc_ours"], row["is_jumbo"] = is_qdisc_ours, is_jumbo
        row["ingress_hook"], row["egress_hook"] = hooks

    def set_state(self, number: int, state: int) -> None:
        self._rows[number]["state"] = state

    def entries(self) -> Iterator[Entry]:
        """Those that are not free."""
        for number in np.flatnonzero(self._rows["state"] != FREE).tolist():
            row = self._rows[number]
            yield Entry(
                number=number,
                name=_text(row["name"]),
                is_settling=int(row["state"]) == SETTLING,
                netns=int(row["netns"]),
                ifindex=int(row["ifindex"]),
                mac=_text(row["mac"]),
                link_bytes=int(row["link_bytes"]),
                hooks=(int(row["ingress_hook"]), int(row["egress_hook"])),
                counters=LinkCounters(*(int(row[one.name]) for one in fields(LinkCounters))),
                is_qdisc_ours=bool(row["is_qdisc_ours"]),
                is_jumbo=bool(row["is_jumbo"]),
            )


def pair_count(hook_points: int) -> int:
    """How many pairs so many hook points make."""
    return (hook_points - FIRST_POINT) // 2


def _text(value: np.void) -> str:
    return bytes(value.tobytes()).rstrip(b"\0").decode(errors="replace")
