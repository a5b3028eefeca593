# SPDX-License-Identifier: Apache-2.0
"""Send markers: `python -m bench.markers ADDRESS FIRST_PORT A_SECOND`, until standard input ends.

A marker is one datagram to a port of its own, so a flow of its own.  They go at random moments,
which know nothing of anybody's intervals.  Prints port and CLOCK_MONOTONIC in nanoseconds of each.
"""

import random
import select
import socket
import sys
import time


def main() -> None:
    address, port, a_second = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    moments = random.Random(port)  # nobody is to be surprised by them
    due = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while True:
            due += moments.expovariate(a_second)
            if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
                return
            sent_ns = time.monotonic_ns()
            sender.sendto(b"marker", (address, port))
            print(port, sent_ns, flush=True)
            port += 1


if __name__ == "__main__":
    main()
