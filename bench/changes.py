# SPDX-License-Identifier: Apache-2.0
"""How long a change of rules takes: from the order to the first packet that is dropped.

The agent is a real one, without a broker.  The order goes to its control socket, and from then on
datagrams go out by an interface that it observes, one after the other: a program counts those that it
drops before the call for the datagram returns, so the moment is known to some ten microseconds.
"""

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from statistics import median

from agent import libbpf
from agent.control import socket_path
from agent.maps import mapped
from agent.plan import root_of
from agent.rows import Rows
from bench.link import Link, link
from bench.processes import agent
from bench.rounds import table
from bench.ruled import enforced, listed
from bench.start import NOWHERE
from schemas.dtype import dtype_from_layout
from schemas.ledger import HOOK_TOTALS
from service.messages import Message, receive, send

_DEADLINE_S = 60.0
_PORT = 9  # discard


def changes(times: int) -> dict:
    beside = {
        "no other": (),
        "10,000 rules": tuple(
            enforced(f"b{number}", f"src host {one[0]}")
            for number, one in enumerate(listed(10_000))
        ),
        "a list of 100,000 prefixes": (enforced("list", src=listed(100_000)),),
    }
    rows: list[list[object]] = []
    with link() as one, tempfile.TemporaryDirectory(prefix="hookline-bench-") as spool:
        flags = ("--spool", spool, "--stop-timeout", "0.1", "--on-stop", "detach")
        with agent(one.name, NOWHERE, *flags), closing(Agent(one)) as running:
            for name, rules in beside.items():
                first = running.change(put=[rule.to_message() for rule in rules])
                took = [running.seconds_to_drop() for _ in range(times)]
                running.change(remove=[rule.name for rule in rules])
                rows.append(
                    [
                        name,
                        *(round(1000 * one) for one in (median(took), max(took))),
                        round(1000 * first),
                    ]
                )
    columns = ["beside", "ms until a packet is dropped", "at worst", "ms to put those"]
    return table(f"One rule more, {times} times", columns, rows)


class Agent:
    """A running agent that takes rules, and the link that it observes."""

    def __init__(self, one: Link) -> None:
        self._name = f"hlb{os.getpid()}"
        self._rule = enforced("more", f"dst host {one.peer}")
        self._dropped = totals_of(self._name)["dropped_packets"]
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._to = (one.peer, _PORT)

    def close(self) -> None:
        self._socket.close()

    def change(self, **order: object) -> float:
        """Seconds until it is done."""
        began = time.perf_counter()
        with self._asked(**order) as peer:
            check(peer)
        return time.perf_counter() - began

    def seconds_to_drop(self) -> float:
        before = int(self._dropped.sum())
        began = time.perf_counter()
        with self._asked(put=[self._rule.to_message()]) as peer:
            while int(self._dropped.sum()) == before:
                self._socket.sendto(b"", self._to)
                assert time.perf_counter() < began + _DEADLINE_S, "nothing is dropped"
            took = time.perf_counter() - began
            check(peer)
        self.change(remove=[self._rule.name])
        return took

    @contextmanager
    def _asked(self, **order: object) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(socket_path(self._name)))
            send(peer, {"v": 1, "do": "rules-change", "despite_allowed": True, **order})
            yield peer


def check(peer: socket.socket) -> None:
    answer: Message = receive(peer)[0]
    assert answer.get("ok"), answer


def totals_of(name: str) -> Rows:
    """What the programs of an agent have counted at all hook points."""
    (path,) = root_of(name).glob("*/maps/totals")
    dtype = dtype_from_layout(HOOK_TOTALS)
    with libbpf.opened(path) as fd:
        size_bytes = libbpf.array_bytes(fd)
    return mapped(path, dtype, size_bytes // dtype.itemsize)
