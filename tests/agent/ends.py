# SPDX-License-Identifier: Apache-2.0
"""The ends of connections as text, and the keys that the agent finds them by."""

from ipaddress import ip_address

import numpy as np

from agent.tuples import TCP, keys_of

End = tuple[str, int]
HERE: End = ("10.0.0.1", 443)
THERE: End = ("198.18.0.9", 50000)


def address(text: str) -> bytes:
    one = ip_address(text)
    return one.packed if one.version == 6 else bytes(10) + b"\xff\xff" + one.packed


def addresses(*texts: str) -> np.ndarray:
    return np.frombuffer(b"".join(map(address, texts)), "V16")


def key(local: End, remote: End = ("::", 0), protocol: int = TCP) -> np.ndarray:
    return keys_of(
        local_addr=addresses(local[0]),
        local_port=np.array([local[1]], np.uint16),
        remote_addr=addresses(remote[0]),
        remote_port=np.array([remote[1]], np.uint16),
        protocol=np.array([protocol], np.uint8),
    )
