# SPDX-License-Identifier: Apache-2.0
"""A slow, lossy path between two namespaces: each end is a tunnel device, and we carry the packets."""

import heapq
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from tests.lab.links import HERE, Namespace, unique_name
from tests.lab.tun import open_tun

NEAR = "198.18.255.1"
FAR = "198.18.255.2"
_PACKET_BYTES = 65535
_HEADERS_BYTES = 80  # longer packets have payload, whatever the options

Drop = Callable[[int], bool]


def _drop_none(_number: int) -> bool:
    return False


@dataclass(slots=True)
class Relay:
    """Carries packets *delay_s* late, both ways.

    *drops* says which packets with payload, counted from 1, to lose on their way from near to far;
    `is_dark` loses all.
    """

    near: Namespace
    far: Namespace
    delay_s: float
    drops: Drop = _drop_none
    is_dark: bool = False
    dropped: int = 0
    _payloads: int = 0
    _due: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self, near_fd: int, far_fd: int) -> None:
        """Carry packets until told to stop."""
        number = 0
        while not self._stop.is_set():
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, _, to_fd, packet = heapq.heappop(self._due)
                os.write(to_fd, packet)
            wait_s = min(self._due[0][0] - now, 0.05) if self._due else 0.05
            for fd in select.select([near_fd, far_fd], [], [], max(wait_s, 0))[0]:
                packet = os.read(fd, _PACKET_BYTES)
                if self._is_lost(packet, is_outgoing=fd == near_fd):
                    continue
                number += 1
                to_fd = far_fd if fd == near_fd else near_fd
                heapq.heappush(self._due, (time.monotonic() + self.delay_s, number, to_fd, packet))

    def stop(self) -> None:
        self._stop.set()

    def _is_lost(self, packet: bytes, *, is_outgoing: bool) -> bool:
        if self.is_dark:
            return True
        if not is_outgoing or len(packet) <= _HEADERS_BYTES:
            return False
        self._payloads += 1
        is_lost = self.drops(self._payloads)
        self.dropped += is_lost
        return is_lost


@contextmanager
def relay(*, delay_s: float = 0.0, drops: Drop = _drop_none) -> Iterator[Relay]:
    """Two namespaces whose only path is the relay; NEAR and FAR are their addresses."""
    with ExitStack() as stack:
        near, far = (stack.enter_context(_namespace()) for _ in range(2))
        fds = [
            stack.enter_context(_end(near, NEAR, FAR)),
            stack.enter_context(_end(far, FAR, NEAR)),
        ]
        carried = Relay(near, far, delay_s, drops)
        thread = threading.Thread(target=carried.run, args=fds)
        thread.start()
        try:
            yield carried
        finally:
            carried.stop()
            thread.join()


@contextmanager
def _namespace() -> Iterator[Namespace]:
    made = Namespace(unique_name())
    HERE.run("ip", "netns", "add", made.name)
    try:
        yield made
    finally:
        HERE.run("ip", "netns", "del", made.name)


@contextmanager
def _end(namespace: Namespace, address: str, peer: str) -> Iterator[int]:
    with namespace.entered():
        fd = open_tun("path0")
    try:
        namespace.run("sysctl", "-qw", "net.ipv6.conf.path0.disable_ipv6=1")
        namespace.run("ip", "address", "add", address, "peer", peer, "dev", "path0")
        namespace.run("ip", "link", "set", "path0", "up")
        yield fd
    finally:
        os.close(fd)
