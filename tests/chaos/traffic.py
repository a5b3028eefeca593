# SPDX-License-Identifier: Apache-2.0
"""Datagrams of known five-tuples and sizes, until the end of standard input.

    python -m tests.chaos.traffic SEED TO PACKETS_PER_SECOND

Then prints what it has sent: source port, destination port, packets and payload bytes by line.
"""

import random
import socket
import sys
import time
from collections import Counter
from select import select

SOURCES = 20
DESTINATIONS = 50
_FIRST_PORT = 20_000
_BURST_S = 0.02


def main(seed: str, to: str, packets_per_s: str) -> None:
    chosen = random.Random(seed)
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(SOURCES)]
    for one in sockets:
        one.bind(("", 0))
    ports = [one.getsockname()[1] for one in sockets]
    packets: Counter[tuple[int, int]] = Counter()
    payload_bytes: Counter[tuple[int, int]] = Counter()
    burst = int(float(packets_per_s) * _BURST_S)

    while not select([sys.stdin], [], [], _BURST_S)[0]:
        for _ in range(chosen.randrange(2 * burst)):
            source, destination = chosen.randrange(SOURCES), chosen.randrange(DESTINATIONS)
            payload = bytes(chosen.randrange(1400))
            sockets[source].sendto(payload, (to, _FIRST_PORT + destination))
            key = ports[source], _FIRST_PORT + destination
            packets[key] += 1
            payload_bytes[key] += len(payload)
    time.sleep(_BURST_S)
    for (source, destination), count in sorted(packets.items()):
        sys.stdout.write(f"{source} {destination} {count} {payload_bytes[source, destination]}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
