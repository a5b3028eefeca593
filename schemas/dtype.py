# SPDX-License-Identifier: Apache-2.0
"""Derive numpy dtypes from layouts, and unpack their packed fields."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.layout import Bits, Layout


def dtype_from_layout(layout: Layout) -> np.dtype[np.void]:
    """A structured dtype with explicit offsets; padding is left out."""
    placed = [(field, at) for field, at in layout.placed() if field.name]
    return np.dtype(
        {
            "names": [field.name for field, _ in placed],
            "formats": [field.kind.numpy for field, _ in placed],
            "offsets": [at for _, at in placed],
            "itemsize": layout.size_bytes,
        }
    )


def unpack(bits: Bits, name: str, packed: NDArray[np.uint32]) -> NDArray[Any]:
    """One part of a packed column, as uint16, or uint32 where it is wider."""
    part = (packed >> np.uint32(bits.shift(name))) & np.uint32(bits.mask(name))
    return part.astype(np.uint16 if bits.mask(name) < 1 << 16 else np.uint32)
