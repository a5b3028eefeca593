# SPDX-License-Identifier: Apache-2.0
"""Traffic of an ordinary host: `python -m bench.chatter ADDRESS`, until standard input ends.

Datagrams from ports that come and go, to many ports, and short TCP connections that a host without
a server refuses: each is a flow of its own.  Prints how many were sent.
"""

import select
import socket
import sys
import time

A_SECOND = 500
DATAGRAMS_A_SOCKET = 20


def main() -> None:
    address, sent, began = sys.argv[1], 0, time.monotonic()
    while not select.select(
        [sys.stdin], [], [], max(0.0, began + sent / A_SECOND - time.monotonic())
    )[0]:
        sent += datagrams(address, first_port=1024 + sent % 50_000) + connection(address)
    print(sent)


def datagrams(address: str, first_port: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(DATAGRAMS_A_SOCKET):
            sender.sendto(bytes(100 + number * 50), (address, first_port + number % 4))
    return DATAGRAMS_A_SOCKET


def connection(address: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as caller:
        caller.settimeout(0.2)
        return 1 if caller.connect_ex((address, 443)) >= 0 else 0


if __name__ == "__main__":
    main()
