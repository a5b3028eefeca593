# SPDX-License-Identifier: Apache-2.0
"""Networks that a detector is told to leave alone."""

from collections.abc import Sequence
from ipaddress import IPv4Network, ip_network
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.alerts.rows import address_bytes
from service.options import ConfigError

_MAPPED_BITS = 96


class Ignored:
    """The networks *cidrs*.

    Raises:
        ConfigError: one of them is no network.
    """

    def __init__(self, cidrs: Sequence[str]) -> None:
        self._nets = [_net(cidr) for cidr in cidrs]

    def __call__(self, addresses: NDArray[Any]) -> NDArray[np.bool_]:
        """Which addresses are in one of them."""
        octets = address_bytes(addresses)
        found = np.zeros(len(octets), np.bool_)
        for net, mask in self._nets:
            found |= ((octets & mask) == net).all(axis=1)
        return found


def _net(cidr: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    try:
        net = ip_network(cidr)
    except ValueError:
        raise ConfigError(f"ignore has {cidr!r}, which is no network; write 10.0.0.0/8") from None
    is_v4 = isinstance(net, IPv4Network)
    bits = net.prefixlen + _MAPPED_BITS * is_v4
    first = net.network_address.packed
    whole = (b"\0" * 10 + b"\xff\xff" + first) if is_v4 else first
    mask = ((1 << 128) - (1 << (128 - bits))).to_bytes(16, "big")
    return np.frombuffer(whole, np.uint8), np.frombuffer(mask, np.uint8)
