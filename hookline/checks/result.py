# SPDX-License-Identifier: Apache-2.0
"""What a check has found."""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """How good it is; only a failure makes a machine one that does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Result:
    """One line: what was looked at, what was found, and what mends it."""

    check: str
    state: State
    text: str
    fix: str = ""


def ok(check: str, text: str) -> Result:
    return Result(check, State.OK, text)


def warn(check: str, text: str, fix: str) -> Result:
    return Result(check, State.WARN, text, fix)


def fail(check: str, text: str, fix: str) -> Result:
    return Result(check, State.FAIL, text, fix)
