# SPDX-License-Identifier: Apache-2.0
"""Describe the layout of shared memory in words that outlive this version, and name it in short.

Memory that an agent leaves to its successor may be laid out by another version of this schema.
The name tells whether it is; the description lets the successor read it all the same.
"""

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np

from schemas.catalogue import BITS, LAYOUTS, SUCCESSION
from schemas.layout import Bits, Layout

_DIGITS = 12


def description() -> dict[str, Any]:
    """Every shared struct and every packed field: names, numpy types and places."""
    return {
        "layouts": {one.name: _members(one) for one in (*LAYOUTS, *SUCCESSION)},
        "sizes": {one.name: one.size_bytes for one in (*LAYOUTS, *SUCCESSION)},
        "bits": {one.name: _parts(one) for one in BITS},
    }


def fingerprint(numbers: Mapping[str, int | str]) -> str:
    """A short name for that description together with the sizes of maps in *numbers*."""
    text = json.dumps([description(), sorted(numbers.items())], sort_keys=True)
    return sha256(text.encode()).hexdigest()[:_DIGITS]


def described_dtype(described: Mapping[str, Any], name: str) -> np.dtype[np.void]:
    """The dtype of the struct *name* as a description tells it."""
    names, formats, offsets = zip(*described["layouts"][name], strict=True)
    return np.dtype(
        {
            "names": list(names),
            "formats": list(formats),
            "offsets": list(offsets),
            "itemsize": described["sizes"][name],
        }
    )


def described_bits(described: Mapping[str, Any], name: str) -> Bits:
    """The packed field *name* as a description tells it."""
    return Bits(name, "", tuple((part, width) for part, width in described["bits"][name]))


def _members(layout: Layout) -> list[list[str | int]]:
    return [[field.name, field.kind.numpy, at] for field, at in layout.placed() if field.name]


def _parts(bits: Bits) -> Iterable[list[str | int]]:
    return [[part, width] for part, width in bits.widths]
