# SPDX-License-Identifier: Apache-2.0
"""How long a packet takes to become a row that a query finds.

Markers (bench/markers.py) go over the link, among the packets of bench.chatter.  ClickHouse is
asked again and again for those that are missing; a marker's time ends when an answer has it.
Nothing is subtracted: neither the pause between two questions, nor the time of the answer.
"""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.chain import Chain

FIRST_PORT = 20_000
A_SECOND = 20.0
PAUSE_S = 0.025
GIVE_UP_S = 15.0


@dataclass(slots=True)
class _Sent:
    """Markers by port, with the moment when each was sent."""

    at_ns: dict[int, int] = field(default_factory=dict)

    def read(self, sender: subprocess.Popen[str]) -> None:
        for line in sender.stdout:
            port, at_ns = line.split()
            self.at_ns[int(port)] = int(at_ns)


def latencies_ms(one: Chain, seconds: float) -> list[float]:
    """Of each marker that was sent in so many seconds, in the order in which they were found."""
    sent, found = _Sent(), {}
    sender = one.link.start("bench.markers", one.link.address, str(FIRST_PORT), str(A_SECOND))
    reader = threading.Thread(target=sent.read, args=(sender,))
    reader.start()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        found |= _found(one, sent.at_ns.keys() - found.keys())
        time.sleep(PAUSE_S)
    sender.stdin.close()
    sender.wait()
    reader.join()
    gives_up = time.monotonic() + GIVE_UP_S
    while missing := sent.at_ns.keys() - found.keys():
        assert time.monotonic() < gives_up, f"{len(missing)} markers never came"
        found |= _found(one, missing)
        time.sleep(PAUSE_S)
    return [(at_ns - sent.at_ns[port]) / 1e6 for port, at_ns in found.items()]


def _found(one: Chain, missing: set[int]) -> dict[int, int]:
    """Those of *missing* that a query finds, and when it had done so."""
    if not missing:
        return {}
    ports = one.ask(
        "SELECT DISTINCT dst_port FROM hookline.flows WHERE time > now64(9) - INTERVAL 20 SECOND"
        f" AND protocol = 17 AND direction = 'ingress' AND dst_port IN ({str(missing)[1:-1]})"
    )
    return dict.fromkeys(map(int, ports), time.monotonic_ns())


@contextmanager
def chatter(one: Chain) -> Iterator[None]:
    """Meanwhile there is ordinary traffic."""
    talker = one.link.start("bench.chatter", one.link.address)
    try:
        yield
    finally:
        talker.stdin.close()
        talker.wait()
