# SPDX-License-Identifier: Apache-2.0
"""Real programs that make real traffic over a link."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.links import Link
from tests.lab.waiting import wait_until

_PORT = 5201
_UDP_SEGMENT = 103  # include/uapi/linux/udp.h


def ping(link: Link, count: int = 5, *, ipv6: bool = False) -> None:
    """Echo requests from the far end, answered by the near one."""
    address = link.near.ipv6 if ipv6 else link.near.ipv4
    link.far.namespace.run("ping", "-q", "-i", "0.01", "-c", str(count), "-W", "2", address)


def iperf3(link: Link, *flags: str, ipv6: bool = False) -> None:
    """A transfer from the near end to the far one, until both have closed."""
    address = link.far.ipv6 if ipv6 else link.far.ipv4
    server = subprocess.Popen(
        link.far.namespace.command("iperf3", "-s", "-1", "-p", str(_PORT), "-B", address),
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _listens(link), "iperf3 to listen")
        subprocess.run(
            ["iperf3", "-c", address, "-p", str(_PORT), *flags],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=30,
        )
        server.wait(10)
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def _listens(link: Link) -> bool:
    return f":{_PORT} " in link.far.namespace.run("ss", "-ltnH")


def udp_burst(link: Link, flows: int, packets: int, payload: bytes = b"x" * 18) -> None:
    """*packets* datagrams from the near end, spread over *flows* destination ports."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(packets):
            sock.sendto(payload, (link.far.ipv4, 1024 + number % flows))


def udp_five_tuples(
    link: Link, sources: int, destinations: int, payload: bytes = b"x" * 18
) -> None:
    """A datagram of each of *sources* x *destinations* five-tuples from the near end."""
    for _ in range(sources):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for port in range(1024, 1024 + destinations):
                sock.sendto(payload, (link.far.ipv4, port))


def udp_gso(link: Link, *, segment_bytes: int, payload_bytes: int, ipv6: bool = False) -> None:
    """One send from the near end that the kernel cuts into datagrams as late as it can."""
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, segment_bytes)
        sock.sendto(bytes(payload_bytes), (link.far.ipv6 if ipv6 else link.far.ipv4, 9))


@contextmanager
def traffic(link: Link, flows: int = 200) -> Iterator[None]:
    """Datagrams from the near end and answers from the far one, until the block is left."""
    done = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            number = 0
            while not done.is_set():
                for _ in range(20):
                    sock.sendto(b"x" * (number % 900), (link.far.ipv4, 1024 + number % flows))
                    number += 1
                time.sleep(0.002)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        done.set()
        sender.join()
