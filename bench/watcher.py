# SPDX-License-Identifier: Apache-2.0
"""The packet watcher of every introduction: an event for each packet, and a callback for each event.

    python -m bench.watcher NAMESPACE INTERFACE

Attaches to both directions there, says `ready`, and reads until it is ended.
"""

import os
import socket
import sys

from agent import libbpf
from bench.ends import within
from bench.programs import Peers

_TIMEOUT_MS = 1000


def main() -> None:
    namespace, interface = sys.argv[1:]
    peers = Peers()
    program = peers.fd("event_wake_tc")
    with within(namespace):
        ifindex = socket.if_nametoindex(interface)
        links = [
            libbpf.create_link(program, ifindex, kind)
            for kind in (libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS)
        ]
    events = peers.module["events"]
    seen: dict[int, int] = {}

    def callback(_context: object, data: int, _size: int) -> int:
        event = events.event(data)
        seen[event.key.ports_be] = seen.get(event.key.ports_be, 0) + event.bytes
        return 0  # anything else costs bcc an exception

    events.open_ring_buffer(callback)
    print("ready", file=sys.stderr, flush=True)
    try:
        while True:
            peers.module.ring_buffer_poll(_TIMEOUT_MS)
    finally:
        for fd in links:
            os.close(fd)


if __name__ == "__main__":
    main()
