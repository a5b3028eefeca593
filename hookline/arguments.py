# SPDX-License-Identifier: Apache-2.0
"""Read what people type on the command line: times, addresses, ports, protocols, patterns.

Each reader raises ArgumentTypeError, whose text argparse prints: the value, and how to write it.
"""

import re
from argparse import ArgumentTypeError
from ipaddress import IPv4Network, ip_network

from hookline.words import PROTOCOLS

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds_in(text: str) -> int:
    """The seconds in `30s`, `5m`, `2h`, `7d`."""
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text, re.ASCII)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds < 1 << 32:
        raise ArgumentTypeError(f"{text!r} is no time: write 30s, 5m, 2h or 7d")
    return seconds


def range_of(text: str) -> tuple[str, str]:
    """The first and the last address of an address or CIDR, mapped."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is no address: write 10.0.0.7, 10.0.0.0/8 or 2001:db8::/32"
        ) from None
    mark = "::ffff:" if isinstance(network, IPv4Network) else ""
    return f"{mark}{network[0]}", f"{mark}{network[-1]}"


def ports_in(text: str) -> tuple[int, int]:
    """The first and the last port of `443` or `8000-8100`."""
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text, re.ASCII)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not first <= last <= 65535:
        raise ArgumentTypeError(f"{text!r} is no port: write 443 or 8000-8100, up to 65535")
    return first, last


def port_number(text: str) -> int:
    """One port; 0 stands for any free one."""
    if re.fullmatch(r"\d{1,5}", text, re.ASCII) and int(text) <= 65535:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is no port: write 0 to 65535")


def protocol_number(text: str) -> int:
    """The IANA number of a protocol."""
    if text.lower() in PROTOCOLS:
        return PROTOCOLS[text.lower()]
    if re.fullmatch(r"\d{1,3}", text, re.ASCII) and int(text) <= 255:
        return int(text)
    raise ArgumentTypeError(
        f"{text!r} is no protocol: write {', '.join(PROTOCOLS)} or a number to 255"
    )


def limit_in(text: str) -> int:
    """How many rows."""
    if re.fullmatch(r"\d{1,6}", text, re.ASCII) and int(text) > 0:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is no number of flows: write 1 to 999999")


def like_pattern(glob: str) -> str:
    """The LIKE pattern of a glob, whose * and ? are the only special characters."""
    escaped = re.sub(r"([\\%_])", r"\\\1", glob)
    return escaped.replace("*", "%").replace("?", "_")
