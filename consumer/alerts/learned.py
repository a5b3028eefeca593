# SPDX-License-Identifier: Apache-2.0
"""Keep what detectors have learned over a restart, so that they need no second day for it.

A detector says in `learns` which of its parts are to be kept.  All arrays and numbers in them go into
one file, with the secret of the hash by which everything in it is known: so only its owner may read
it.  What does not fit any more, because a version has another size for it, is learned anew.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from consumer.alerts.detector import Detector
from consumer.alerts.keys import HASH

FILE = "learned.npz"
_SEED = "seed"
_OURS = "consumer.alerts"

log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]
# An array and what holds it: an object and its attribute.
_Part = tuple[Any, str]


def learned(detectors: Sequence[Detector]) -> Arrays:
    """A copy of all that these have learned, and the secret."""
    copies = {
        path: np.array(getattr(owner, name))
        for detector in detectors
        for path, (owner, name) in _parts(detector).items()
    }
    return {_SEED: np.array(HASH.seed, np.uint64), **copies}


def keep(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write what `learned` has copied; blocks.

    Raises:
        OSError: the folder cannot be written to.
    """
    beside = folder / (FILE + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    beside.replace(folder / FILE)


def restore(folder: Path, detectors: Sequence[Detector]) -> None:
    """Go on with what was kept, where there is something that fits; before any row is taken.

    Raises:
        OSError: it cannot be read.
    """
    file = folder / FILE
    if not file.exists():
        return
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as kept:
            arrays: Arrays = dict(kept)
        HASH.seed = np.uint64(arrays[_SEED])
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        log.warning("what was learned cannot be read", extra={"file": file, "reason": str(error)})
        return
    for detector in detectors:
        _restore(detector, arrays)


def _restore(detector: Detector, arrays: Arrays) -> None:
    parts = _parts(detector)
    fits = all(
        path in arrays and arrays[path].shape == np.shape(getattr(owner, name))
        for path, (owner, name) in parts.items()
    )
    if parts and not fits:
        log.warning("it learns anew: what was kept does not fit", extra={"detector": detector.name})
        return
    for path, (owner, name) in parts.items():
        before = getattr(owner, name)
        if isinstance(before, np.ndarray):
            before[...] = arrays[path]
        else:
            setattr(owner, name, type(before)(arrays[path]))


def _parts(detector: Detector) -> dict[str, _Part]:
    """Everything to be kept of a detector, by a path that names it."""
    return {
        path: part
        for name in detector.learns
        for path, part in _parts_at(detector, name, f"{detector.name}.{name}")
    }


def _parts_at(owner: Any, name: str, path: str) -> Iterator[tuple[str, _Part]]:
    value = getattr(owner, name)
    if isinstance(value, np.ndarray | int | float):
        yield path, (owner, name)
        return
    for number, one in enumerate(value if isinstance(value, list) else [value]):
        if type(one).__module__.startswith(_OURS):
            for inner in vars(one):
                yield from _parts_at(one, inner, f"{path}{number or ''}.{inner}")
