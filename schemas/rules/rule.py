# SPDX-License-Identifier: Apache-2.0
"""A rule: which packets it means, what becomes of them, for how long, and who wanted it.

Rules come from command lines, files and other machines.  One that exists has been checked in full,
whoever sent it: its match has a meaning that fits the kernel's tables, and every size has a bound.
"""

import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Self

from schemas.filter.grammar import parse
from schemas.filter.words import FilterError
from schemas.rules.intervals import ADDRESS_BITS, Network, prefix_of
from schemas.rules.limit import Limit, LimitError
from schemas.rules.meaning import plain_space, spaces_of
from schemas.rules.spaces import MeaningError, Space

ACTIONS = ("drop", "limit", "pass")
MAX_BOXES = 16
MAX_NETWORKS = 100_000
MAX_PRIORITY = 65535
DEFAULT_PRIORITY = 100
MAX_MATCH_CHARS = 4096
MAX_TEXT_CHARS = 200
_MAX_SHOWN = 80
_MAX_NS = (1 << 63) - 1
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
# A network in a message: its first address, mapped, and the bits that count.
PACKED_BYTES = 17
_MAPPED = 0xFFFF
_IPV4_HEAD = bytes(10) + b"\xff\xff"


class RuleError(ValueError):
    """A rule that cannot be; the text is one line that names the value and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule.

    A rule that is observed counts what it would have done and changes nothing.  *src* and *dst* are
    further conditions: the packet's address is in one of the networks; none is no condition.

    Raises:
        RuleError: a field makes no sense.
    """

    name: str
    match: str
    action: str = "drop"
    limit: Limit | None = None
    is_observed: bool = True
    priority: int = DEFAULT_PRIORITY
    until_ns: int = 0  # wall time; 0 has no end
    owner: str = ""
    reason: str = ""
    src: tuple[Network, ...] = ()
    dst: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise RuleError(
                f"{shown(self.name)} is no name of a rule; write 1 to 63 of a-z, 0-9, '.', '_' and"
                " '-', the first a letter or digit"
            )
        if self.action not in ACTIONS:
            raise self._fault(f"action {shown(self.action)} is none", ", ".join(ACTIONS))
        if (self.limit is not None) != (self.action == "limit"):
            given = "lacks a limit" if self.limit is None else "takes no limit"
            fix = "limit 100/s" if self.limit is None else "action limit"
            raise self._fault(f"action {self.action} {given}", fix)
        self._check_number("priority", self.priority, MAX_PRIORITY)
        self._check_number("until_ns", self.until_ns, _MAX_NS)
        self._check_text("owner", self.owner, MAX_TEXT_CHARS)
        self._check_text("reason", self.reason, MAX_TEXT_CHARS)
        self._check_text("match", self.match, MAX_MATCH_CHARS)
        for side, networks in (("src", self.src), ("dst", self.dst)):
            if len(networks) > MAX_NETWORKS:
                raise self._fault(
                    f"{side} holds {len(networks)} networks", f"at most {MAX_NETWORKS}"
                )
        try:
            meaning_of(self.match)
        except RuleError as error:
            raise RuleError(f"rule {self.name}: {error}") from None

    def is_over(self, now_ns: int) -> bool:
        """Whether its time has ended."""
        return 0 < self.until_ns <= now_ns

    def to_message(self, *, is_packed: bool = True) -> dict[str, Any]:
        """The rule as msgpack or, without *is_packed*, as YAML holds it; defaults are left out."""
        message: dict[str, Any] = {"name": self.name, "match": self.match, "action": self.action}
        if self.limit:
            message["limit"] = str(self.limit)
        message["enforced"] = not self.is_observed
        message["priority"] = self.priority
        for key in ("until_ns", "owner", "reason"):
            if getattr(self, key):
                message[key] = getattr(self, key)
        for side, networks in (("src", self.src), ("dst", self.dst)):
            if networks and is_packed:
                message[f"{side}_packed"] = packed_networks(networks)
            elif networks:
                message[side] = [str(network) for network in networks]
        return message

    @classmethod
    def from_message(cls, message: object) -> Self:
        """The rule in a message, which anybody may have made.

        Raises:
            RuleError: it is none.
        """
        if not isinstance(message, Mapping):
            raise RuleError(f"{shown(message)} is no rule; write a map with name and match")
        name = message.get("name")
        whose = f"rule {name}" if isinstance(name, str) and _NAME.fullmatch(name) else "a rule"
        for key in message:
            if key not in _KINDS:
                raise RuleError(f"{whose} has unknown field {shown(key)}; known: {_KNOWN}")
        for key in ("name", "match"):
            if key not in message:
                raise RuleError(f"{whose} lacks {key}; add {key}: ...")
        for key, value in message.items():
            # True is an int to Python, and no number to people.
            if not isinstance(value, _KINDS[key]) or isinstance(value, bool) != (key == "enforced"):
                raise RuleError(f"{whose}: {key} is {shown(value)}; write {_WRITTEN[_KINDS[key]]}")
        values = {key: message[key] for key in _PLAIN if key in message}
        values["is_observed"] = not message.get("enforced", False)
        try:
            if "limit" in message:
                values["limit"] = Limit.parse(message["limit"])
            for side in ("src", "dst"):
                values[side] = _networks_in(message, side)
        except (LimitError, RuleError) as error:
            raise RuleError(f"{whose}: {error}") from None
        return cls(**values)

    def _fault(self, what: str, fix: str) -> RuleError:
        return RuleError(f"rule {self.name}: {what}; write {fix}")

    def _check_number(self, key: str, number: int, most: int) -> None:
        if not 0 <= number <= most:
            raise self._fault(f"{key} is {number}", f"0 to {most}")

    def _check_text(self, key: str, text: str, most: int) -> None:
        if len(text) > most:
            raise self._fault(f"{key} has {len(text)} characters", f"at most {most}")
        if not text.isprintable():
            raise self._fault(f"{key} is {shown(text)}", "only what can be printed, on one line")


_PLAIN = ("name", "match", "action", "priority", "until_ns", "owner", "reason")
_KINDS: dict[object, type] = {
    **dict.fromkeys(("name", "match", "action", "limit", "owner", "reason"), str),
    **dict.fromkeys(("priority", "until_ns"), int),
    "enforced": bool,
    **dict.fromkeys(("src", "dst"), list),
    **dict.fromkeys(("src_packed", "dst_packed"), bytes),
}
FIELDS = frozenset(_KINDS)
_KNOWN = ", ".join(str(key) for key in _KINDS if not str(key).endswith("_packed"))
_WRITTEN = {
    str: "a text, in quotes where it looks like a number",
    int: "a whole number",
    bool: "true or false",
    list: "a list of networks",
    bytes: f"{PACKED_BYTES} bytes for each network",
}


@lru_cache(maxsize=128)  # a space has up to 24 KiB
def meaning_of(match: str) -> tuple[Space, ...]:
    """The spaces of a rule's match.

    Raises:
        RuleError: it makes no sense, no IP packet can match, or it needs too many.
    """
    if plain := plain_space(match):
        return (plain,)
    try:
        spaces = spaces_of(parse(match, for_packets=True))
    except (FilterError, MeaningError) as error:
        raise RuleError(f"match {shown(match)}: {error}") from None
    if not spaces:
        raise RuleError(
            f"match {shown(match)} means no IP packet, and rules are about those alone;"
            " leave out what contradicts itself or is not IP"
        )
    if len(spaces) > MAX_BOXES:
        raise RuleError(
            f"match {shown(match)} takes {len(spaces)} boxes, and a rule has {MAX_BOXES}; split it"
            " into several rules, or list addresses in src and dst"
        )
    return tuple(spaces)


def network_in(text: object) -> Network:
    """One address or CIDR of a list.

    Raises:
        RuleError: it is none.
    """
    try:
        network = ip_network(text, strict=False) if isinstance(text, str) else _no_network(text)
    except ValueError:
        return _no_network(text)
    # Mapped addresses are those of IPv4, as everywhere else.
    if network.version == 6 and prefix_of(network)[0] >> 32 == _MAPPED and network.prefixlen >= 96:
        return _unpacked(packed_networks([network]))
    return network


def _no_network(value: object) -> Network:
    raise RuleError(f"{shown(value)} is no network; write 192.0.2.0/24 or 2001:db8::/32")


def packed_networks(networks: Iterable[Network]) -> bytes:
    """Networks as messages hold them."""
    found = bytearray()
    for network in networks:
        first, length = prefix_of(network)
        found += first.to_bytes(16, "big")
        found.append(length)
    return bytes(found)


def unpacked_networks(packed: bytes) -> tuple[Network, ...]:
    """The networks in a message.

    Raises:
        RuleError: these are none.
    """
    if len(packed) % PACKED_BYTES:
        raise RuleError(f"{len(packed)} bytes are no networks; send {PACKED_BYTES} for each")
    if len(packed) > PACKED_BYTES * MAX_NETWORKS:
        raise RuleError(
            f"{len(packed) // PACKED_BYTES} networks are too many; send at most {MAX_NETWORKS}"
        )
    return tuple(
        _unpacked(packed[at : at + PACKED_BYTES]) for at in range(0, len(packed), PACKED_BYTES)
    )


def _unpacked(packed: bytes) -> Network:
    address, length = packed[:16], packed[16]
    try:
        if length >= ADDRESS_BITS - 32 and address.startswith(_IPV4_HEAD):
            return IPv4Network((address[12:], length - ADDRESS_BITS + 32))
        return IPv6Network((address, length))
    except ValueError:
        return _no_network(f"{address.hex()}/{length}")


def _networks_in(message: Mapping[Any, Any], side: str) -> tuple[Network, ...]:
    listed, packed = message.get(side, []), message.get(f"{side}_packed", b"")
    if listed and packed:
        raise RuleError(f"{side} is given twice; send {side} or {side}_packed")
    if len(listed) > MAX_NETWORKS:
        raise RuleError(f"{side} holds {len(listed)} networks; write at most {MAX_NETWORKS}")
    return unpacked_networks(packed) if packed else tuple(map(network_in, listed))


def shown(value: object) -> str:
    """A value as one line of an error can hold it, whoever made it and however large it is."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]!r}..."
    return reprlib.repr(value)
