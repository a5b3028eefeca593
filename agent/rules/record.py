# SPDX-License-Identifier: Apache-2.0
"""The agent's record of its rules: a file that is written before the kernel is told.

So an agent that was killed at any moment comes back with rules that the kernel has, or was about to
have.  The maps hold rules as tables, from which nobody reads names, owners and reasons.
"""

import logging
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import msgpack

from schemas.rules.rule import Rule, RuleError

log = logging.getLogger(__name__)

_VERSION = 1
COUNTERS = ("hit_packets", "hit_bytes", "over_packets", "over_bytes")
Counts = tuple[int, int, int, int]
NOTHING: Counts = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Kept:
    """A rule that the agent has."""

    rule: Rule
    origin: str  # local, file, network
    slot: int
    since_ns: int
    # What it had counted in maps that are no more.
    before: Counts = NOTHING

    def to_message(self) -> dict[str, Any]:
        return {
            "rule": self.rule.to_message(),
            "origin": self.origin,
            "slot": self.slot,
            "since_ns": self.since_ns,
            "before": list(self.before),
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        hit, hit_bytes, over, over_bytes = message["before"]
        return cls(
            Rule.from_message(message["rule"]),
            str(message["origin"]),
            int(message["slot"]),
            int(message["since_ns"]),
            (int(hit), int(hit_bytes), int(over), int(over_bytes)),
        )


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rule of the network that is not obeyed."""

    name: str  # as far as it can be known
    reason: str  # of schemas.rules.signed.REASONS
    text: str


@dataclass(frozen=True, slots=True)
class Left:
    """A rule that is no more: why, and what it had counted."""

    kept: Kept
    state: str  # removed, expired
    counts: Counts


@dataclass(frozen=True, slots=True)
class Record:
    """All rules of an agent by name, and the number of the change that made them so.

    *layout* names the maps that their slots are in.
    """

    layout: str = ""
    revision: int = 0
    rules: Mapping[str, Kept] = field(default_factory=dict)
    # Of orders from the network, by the rule's name: serial and end.
    serials: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def begun_anew(self, now_ns: int) -> Self:
        """The same rules, which have counted nothing yet."""
        rules = {
            name: replace(one, since_ns=now_ns, before=NOTHING) for name, one in self.rules.items()
        }
        return replace(self, rules=rules)

    def changed(
        self, rules: Iterable[Kept], serials: Mapping[str, tuple[int, int]], now_ns: int
    ) -> Self:
        """The next one, with these rules; what orders that have ended said nobody can say again."""
        kept = {one.rule.name: one for one in rules}
        newest = {name: one for name, one in {**self.serials, **serials}.items() if one[1] > now_ns}
        return replace(self, revision=self.revision + 1, rules=kept, serials=newest)


class RecordFile:
    """Where a record is kept."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Record:
        """What was written last; a new record where there is nothing, or nothing of use."""
        try:
            return _record(self._path.read_bytes())
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError, TypeError, KeyError, RuleError) as error:
            aside = self._path.with_suffix(".damaged")
            log.error(  # noqa: TRY400  # the place in our code says nothing here
                "the record of rules cannot be read; rules of the network will come again, others"
                " must be given again",
                extra={"file": str(self._path), "moved_to": str(aside), "reason": str(error)},
            )
            self._path.rename(aside)
            return Record()

    def write(self, record: Record) -> None:
        """Replace it, on the disk.

        Raises:
            OSError: there is no room, for example; the former is there then.
        """
        content = msgpack.packb(
            {
                "v": _VERSION,
                "layout": record.layout,
                "revision": record.revision,
                "rules": [one.to_message() for one in record.rules.values()],
                "serials": [[name, *one] for name, one in record.serials.items()],
            }
        )
        new = self._path.with_suffix(".new")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            file.write(zlib.crc32(content).to_bytes(4, "big") + content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _record(data: bytes) -> Record:
    content = data[4:]
    if zlib.crc32(content).to_bytes(4, "big") != data[:4]:
        raise ValueError("its checksum is another")
    found = msgpack.unpackb(content)
    if found["v"] != _VERSION:
        raise ValueError(f"its version is {found['v']}, not {_VERSION}")
    kept = [Kept.from_message(message) for message in found["rules"]]
    serials = {str(name): (int(serial), int(end)) for name, serial, end in found["serials"]}
    by_name = {one.rule.name: one for one in kept}
    return Record(found["layout"], found["revision"], by_name, serials)
