# SPDX-License-Identifier: Apache-2.0
"""Read one word of a filter as a value: an address, a port, a protocol, a number.

Command line flags that take the same values read them here too, so that both say alike what is
wrong.
"""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network

from schemas.protocols import ETHERTYPES, PROTOCOLS, TCP_FLAGS

PORT_LIMIT = 0xFFFF


class ReadError(ValueError):
    """A value that cannot be read: why, and what can be."""

    def __init__(self, why: str, allowed: str) -> None:
        super().__init__(f"{why}; write {allowed}")
        self.why = why
        self.allowed = allowed


def network_in(text: str) -> IPv4Network | IPv6Network:
    """An address or a CIDR; bits behind the prefix do not matter."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        allowed = "10.0.0.7, 10.0.0.0/8 or 2001:db8::/32"
        raise ReadError("is no address", allowed) from None


def address_in(text: str) -> IPv4Network | IPv6Network:
    """One address, as a network of its own."""
    if "/" in text:
        raise ReadError("is no single address", f"net {text}")
    return network_in(text)


def ports_in(text: str) -> tuple[int, int]:
    """The first and the last port of `443` or `8000-8100`."""
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text, re.ASCII)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not first <= last <= PORT_LIMIT:
        raise ReadError("is no port", f"443 or 8000-8100, up to {PORT_LIMIT}")
    return first, last


def protocol_in(text: str) -> int:
    """The IANA number of a protocol."""
    # tcpdump wants names behind `proto` with a backslash, and calls ICMPv6 so.
    name = text.lower().removeprefix("\\").replace("icmp6", "icmpv6")
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    number = _number(text, 255)
    if number is None:
        raise ReadError("is no protocol", f"{', '.join(PROTOCOLS)} or a number to 255")
    return number


def ethertype_in(text: str) -> int:
    """An IEEE ethertype, by name, in hexadecimal or decimal."""
    name = text.lower().removeprefix("\\")
    if name in ETHERTYPES:
        return ETHERTYPES[name]
    number = _number(text, 0xFFFF)
    if number is None:
        raise ReadError("is no ethertype", f"{', '.join(ETHERTYPES)} or a number as 0x88cc")
    return number


def flag_in(text: str) -> int:
    """The bit of one TCP flag."""
    if text.lower() not in TCP_FLAGS:
        raise ReadError("is no TCP flag", ", ".join(TCP_FLAGS))
    return TCP_FLAGS[text.lower()]


def number_in(text: str, limit: int) -> int:
    """A number from 0 to *limit*, decimal or with 0x hexadecimal."""
    number = _number(text, limit)
    if number is None:
        raise ReadError("is no number in its limits", f"0 to {limit}")
    return number


def _number(text: str, limit: int) -> int | None:
    if not re.fullmatch(r"\d{1,10}|0x[0-9a-fA-F]{1,8}", text, re.ASCII):
        return None
    number = int(text, 16 if text.startswith("0x") else 10)
    return number if number <= limit else None
