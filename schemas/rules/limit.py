# SPDX-License-Identifier: Apache-2.0
"""The limit of a rule: how many packets or bytes a second pass, and how many at once.

In text it is `100/s`, `2k/s burst 500`, `10MB/s per source`: a number, B for bytes, `burst` where
one second's worth is not meant, `per source` where every source address has a limit of its own.
"""

import re
from dataclasses import dataclass
from typing import Self

MAX_RATE = 10**12
# The kernel hands on packets of up to 64 KiB, but what waits for room in the bucket is small.
MIN_BURST = {"packets": 1, "bytes": 2048}
UNITS = {"": "packets", "B": "bytes"}
PERS = ("rule", "source")
_SCALES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_AMOUNT = r"(\d{1,13})([kMG]?)(B?)"
_TEXT = re.compile(
    rf"\s*{_AMOUNT}/s(?:\s+burst\s+{_AMOUNT})?(?:\s+per\s+(rule|source))?\s*", re.ASCII
)
_WRITTEN = "100/s, 10MB/s, 2k/s burst 500 or 100/s per source"


class LimitError(ValueError):
    """No limit; the text is one line that names the value and the fix."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A token bucket: *rate* a second, and *burst* at once; 0 stands for one second's worth."""

    rate: int
    unit: str = "packets"
    burst: int = 0
    per: str = "rule"

    def __post_init__(self) -> None:
        if self.unit not in MIN_BURST:
            raise LimitError(f"unit {self.unit!r} is none; write {' or '.join(MIN_BURST)}")
        if self.per not in PERS:
            raise LimitError(f"per {self.per!r} is none; write {' or '.join(PERS)}")
        if not 1 <= self.rate <= MAX_RATE:
            raise LimitError(f"a rate of {self.rate} is out of its limits; write 1 to {MAX_RATE}")
        least = MIN_BURST[self.unit]
        if not self.burst:
            object.__setattr__(self, "burst", max(self.rate, least))
        if not least <= self.burst <= MAX_RATE:
            raise LimitError(
                f"a burst of {self.burst} {self.unit} is out of its limits;"
                f" write {least} to {MAX_RATE}"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The limit that *text* says.

        Raises:
            LimitError: it says none.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise LimitError(f"{text[:80]!r} is no limit; write {_WRITTEN}")
        rate, scale, sign, burst, burst_scale, burst_sign, per = found.groups()
        if burst is not None and burst_sign != sign:
            raise LimitError(f"{text!r} mixes packets and bytes; write {_WRITTEN}")
        if burst is not None and not int(burst):
            raise LimitError(f"{text!r} lets nothing pass at once; write {_WRITTEN}")
        return cls(
            int(rate) * _SCALES[scale],
            UNITS[sign],
            int(burst) * _SCALES[burst_scale] if burst is not None else 0,
            per or "rule",
        )

    def __str__(self) -> str:
        sign = "B" if self.unit == "bytes" else ""
        parts = [f"{_scaled(self.rate)}{sign}/s"]
        if self.burst != max(self.rate, MIN_BURST[self.unit]):
            parts.append(f"burst {_scaled(self.burst)}{sign}")
        if self.per != "rule":
            parts.append(f"per {self.per}")
        return " ".join(parts)


def _scaled(number: int) -> str:
    """The shortest exact form."""
    for name, scale in reversed(_SCALES.items()):
        if number % scale == 0:
            return f"{number // scale}{name}"
    return str(number)
