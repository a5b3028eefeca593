# SPDX-License-Identifier: Apache-2.0
"""Keep what fires over a restart, so that an alert that ended meanwhile is resolved all the same.

One small file, written anew with each change and put in its place whole.
"""

import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgpack

from consumer.alerts.alert import Proposal, Sighting

FILE = "firing.msgpack"
_VERSION = 1

log = logging.getLogger(__name__)

Pair = tuple[Sighting, Sighting]


def keep(folder: Path, firing: Iterable[Pair]) -> None:
    """Write the first and the latest sighting of every alert that fires.

    Raises:
        OSError: the folder cannot be written to.
    """
    content = {"v": _VERSION, "firing": [[_map(one) for one in pair] for pair in firing]}
    beside = folder / (FILE + ".new")
    beside.write_bytes(msgpack.packb(content))
    beside.replace(folder / FILE)


def kept(folder: Path) -> list[Pair]:
    """What was written last; nothing where there is none, or it is no use.

    Raises:
        OSError: it cannot be read.
    """
    file = folder / FILE
    if not file.exists():
        return []
    try:
        content = msgpack.unpackb(file.read_bytes())
        if content["v"] != _VERSION:
            log.warning("what fired is not known: another version wrote it", extra={"file": file})
            return []
        return [(_sighting(first), _sighting(latest)) for first, latest in content["firing"]]
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        log.warning("what fired is not known any more", extra={"file": file, "reason": str(error)})
        return []


def _map(sighting: Sighting) -> dict[str, Any]:
    return {**asdict(sighting), "labels": dict(sighting.labels)}


def _sighting(content: dict[str, Any]) -> Sighting:
    proposal = content.pop("proposal")
    return Sighting(**content, proposal=Proposal(**proposal) if proposal else None)
