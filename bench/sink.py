# SPDX-License-Identifier: Apache-2.0
"""Sockets for traffic to end at."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sink(address: str) -> Iterator[int]:
    """The port of a UDP socket that nobody reads: full at once, it drops, and answers nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((address, 0))
        yield receiver.getsockname()[1]
