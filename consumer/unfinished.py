# SPDX-License-Identifier: Apache-2.0
"""Let the embedded engine forget the insert that a kill cut off between its token and its rows.

ClickHouse writes down in a table's deduplication log that it has a part, and only then gives the
part its name (`MergeTreeSink::finishDelayedChunk`, 26.9).  Killed in between, it takes the repeated
insert for one that it has, though its rows are nowhere.  Both happen under the lock of the table's
parts, so this is true of nothing but the last entry.
"""

import fcntl
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Entries of `deduplication_log_NUMBER.txt`: operation, part, block, with tabs between them.
_ADDED = "1"
_DROPPED = "2"
# 20261127_3_7_1: the partition, its blocks from and to, how often merged.
_PART = re.compile(r"(?P<partition>[^_]+)_(?P<first>\d+)_(?P<last>\d+)_\d+(?:_\d+)?")

log = logging.getLogger(__name__)


def forget_unfinished(directory: Path) -> None:
    """Make the engine in *directory* ready for a repeated insert; not while a process has it open.

    Raises:
        OSError: the files cannot be read or written.
    """
    with _nobody_has_open(directory) as is_ours:
        if not is_ours:
            return
        for logs in directory.glob("store/*/*/deduplication_logs"):
            if entry := _unfinished(logs):
                part, block = entry
                with _in_order(logs)[-1].open("a") as last:
                    last.write(f"{_DROPPED}\t{part}\t{block}\n")
                log.warning(
                    "an insert was cut off; it is done again",
                    extra={"table": logs.parent.name, "part": part},
                )


@contextmanager
def _nobody_has_open(directory: Path) -> Iterator[bool]:
    """Whether no engine holds the directory; none can begin to until this ends."""
    try:
        # The engine locks it, and removes it when it is closed.
        status = (directory / "status").open("rb")
    except FileNotFoundError:
        yield True
        return
    with status:
        try:
            fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _unfinished(logs: Path) -> tuple[str, str] | None:
    """Part and block of the last entry, where the table has no such part."""
    # A full log is followed by an empty one.
    lines = [line for one in _in_order(logs)[-2:] for line in one.read_text().splitlines()]
    match lines[-1].split("\t") if lines else []:
        case [operation, part, block] if operation == _ADDED and not _is_there(logs.parent, part):
            return part, block
    return None


def _is_there(table: Path, part: str) -> bool:
    """Whether the table has *part*, or one that it was merged into."""
    if (table / part).exists() or not (own := _PART.fullmatch(part)):
        return True
    others = filter(None, (_PART.fullmatch(one.name) for one in table.iterdir()))
    return any(
        other["partition"] == own["partition"]
        and int(other["first"]) <= int(own["first"])
        and int(own["last"]) <= int(other["last"])
        for other in others
    )


def _in_order(logs: Path) -> list[Path]:
    return sorted(
        logs.glob("deduplication_log_*.txt"), key=lambda one: int(one.stem.rpartition("_")[2])
    )
