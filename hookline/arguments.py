# SPDX-License-Identifier: Apache-2.0
"""Read what people type on the command line: times, addresses, ports, protocols, patterns.

Each reader raises ArgumentTypeError, whose text argparse prints: the value, and how to write it.
"""

import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import TypeVar

from schemas.filter.values import ReadError

Value = TypeVar("Value")

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds_in(text: str) -> int:
    """The seconds in `30s`, `5m`, `2h`, `7d`."""
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text, re.ASCII)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds < 1 << 32:
        raise ArgumentTypeError(f"{text!r} is no time: write 30s, 5m, 2h or 7d")
    return seconds


def as_argument(read: Callable[[str], Value]) -> Callable[[str], Value]:
    """A reader of the filter language as one of the command line."""

    def value_of(text: str) -> Value:
        try:
            return read(text)
        except ReadError as error:
            raise ArgumentTypeError(f"{text!r} {error}") from None

    return value_of


def since_in(text: str) -> int:
    """As `seconds_in`; `all`, which is 0, sets no limit."""
    return 0 if text == "all" else seconds_in(text)


def port_number(text: str) -> int:
    """One port; 0 stands for any free one."""
    if re.fullmatch(r"\d{1,5}", text, re.ASCII) and int(text) <= 65535:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is no port: write 0 to 65535")


def number_from(least: int, most: int) -> Callable[[str], int]:
    """A reader of numbers in these limits."""

    def number_of(text: str) -> int:
        if re.fullmatch(r"\d{1,19}", text, re.ASCII) and least <= int(text) <= most:
            return int(text)
        raise ArgumentTypeError(f"{text!r} is out of its limits: write {least} to {most}")

    return number_of


def limit_in(text: str) -> int:
    """How many rows."""
    if re.fullmatch(r"\d{1,6}", text, re.ASCII) and int(text) > 0:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is no number of flows: write 1 to 999999")
