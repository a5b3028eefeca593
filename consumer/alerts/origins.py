# SPDX-License-Identifier: Apache-2.0
"""Where floods come from: how many sources each victim has had, and which network sends most.

A network is a /24 or a /64, as its own number: so the heaviest ones can be named, without a table of
addresses.
"""

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.alerts import evidence, keys
from consumer.alerts.alert import Proposal
from consumer.alerts.rows import address_bytes, is_ipv4
from consumer.alerts.sketches import Heaviest, HyperLogLog, Keys, Values

_MOST_VICTIMS = 64
_MOST_NETWORKS = 64
_REGISTER_BITS = 10
# So few sources can be dropped by their addresses; more are likely not their own.
_FEW_SOURCES = 3
# A network that sends that much of a flood can be dropped as a whole.
_MOST_OF_IT = 0.8
_PROPOSED_S = 600.0
# No IPv6 address that is in use begins with these bits.
_IPV4_MARK = np.uint64(0xFFFF << 48)


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of the sources of one flood since it began."""

    sources: int
    network: str  # the one that sends most
    share: float  # of all packets

    def __str__(self) -> str:
        about = "about " if self.sources > _MOST_VICTIMS else ""
        counted = f"{about}{self.sources} source{'s' * (self.sources != 1)}"
        return f"{counted}, {100 * self.share:.0f} % from {self.network}"


class Origins:
    """The sources of the floods of the last 64 victims."""

    def __init__(self) -> None:
        self._victims: OrderedDict[int, tuple[HyperLogLog, Heaviest]] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        return len(self._victims) * ((1 << _REGISTER_BITS) + 16 * _MOST_NETWORKS)

    def add(self, victim: int, addresses: NDArray[Any], packets: Values) -> Origin:
        """Add what *addresses* sent to *victim*; all that is known of it."""
        both = HyperLogLog(_REGISTER_BITS), Heaviest(_MOST_NETWORKS)
        sources, networks = self._victims.setdefault(victim, both)
        self._victims.move_to_end(victim)
        if len(self._victims) > _MOST_VICTIMS:
            self._victims.popitem(last=False)
        sources.add(keys.HASH.of(addresses))
        networks.add(_numbers(addresses), packets)
        most = int(networks.weights.argmax())
        share = float(networks.weights[most] / networks.weights.sum())
        return Origin(round(sources.estimate()), _network(int(networks.keys[most])), share)


def proposal(origin: Origin, addresses: NDArray[Any], *, victim: str, what: str) -> Proposal:
    """The rule that would end a flood: by its sources where they are few or near each other.

    Who is behind many addresses nobody knows, and real clients are among them, so there it limits.
    """
    if origin.sources <= _FEW_SOURCES:
        named = sorted({evidence.address(one) for one in np.unique(addresses)[:_FEW_SOURCES]})
        source = named[0] if len(named) == 1 else f"({' or '.join(named)})"
        return Proposal(f"src host {source} and dst host {victim} and {what}", "drop", _PROPOSED_S)
    if origin.share >= _MOST_OF_IT:
        match = f"src net {origin.network} and dst host {victim} and {what}"
        return Proposal(match, "drop", _PROPOSED_S)
    return Proposal(f"dst host {victim} and {what}", "limit", _PROPOSED_S)


def _numbers(addresses: NDArray[Any]) -> Keys:
    octets = address_bytes(addresses)
    words = octets.copy().view(">u8")
    ipv4 = _IPV4_MARK | (words[:, 1].astype(np.uint64) & np.uint64(0xFFFFFF00))
    return np.where(is_ipv4(octets), ipv4, words[:, 0].astype(np.uint64))


def _network(number: int) -> str:
    if number >> 48 == int(_IPV4_MARK) >> 48:
        return str(IPv4Network((number & 0xFFFFFFFF, 24)))
    return str(IPv6Network((number << 64, 64)))
