# SPDX-License-Identifier: Apache-2.0
"""The database on disk in which the queue of alerts lies, and its tables.

changes     waits, or is in a delivery; per destination and in the order in which it came
deliveries  changes that go in one request; what is in one stays in it, under one key
told        what a destination knows: alerts that fire there
rejected    what a destination refused, with its reason; the newest are kept
"""

import sqlite3
from pathlib import Path

FILE = "outlets.sqlite3"
_FORMAT = 1

_TABLES = f"""
CREATE TABLE IF NOT EXISTS changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    outlet TEXT NOT NULL, grouped TEXT NOT NULL, fingerprint TEXT NOT NULL, status TEXT NOT NULL,
    severity TEXT NOT NULL, repeat INTEGER NOT NULL, alert TEXT NOT NULL,
    entered_ns INTEGER NOT NULL, ready_ns INTEGER NOT NULL, delivery INTEGER
);
CREATE INDEX IF NOT EXISTS changes_of ON changes (outlet, fingerprint);
CREATE INDEX IF NOT EXISTS changes_in ON changes (outlet, delivery, ready_ns);
CREATE INDEX IF NOT EXISTS changes_by_delivery ON changes (delivery);
CREATE TABLE IF NOT EXISTS deliveries (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    outlet TEXT NOT NULL, key TEXT NOT NULL, is_summary INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS told (
    outlet TEXT NOT NULL, fingerprint TEXT NOT NULL, status TEXT NOT NULL, severity TEXT NOT NULL,
    repeat INTEGER NOT NULL, alert TEXT NOT NULL, told_ns INTEGER NOT NULL,
    PRIMARY KEY (outlet, fingerprint)
);
CREATE TABLE IF NOT EXISTS rejected (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    outlet TEXT NOT NULL, key TEXT NOT NULL, alert TEXT NOT NULL, reason TEXT NOT NULL,
    rejected_ns INTEGER NOT NULL
);
PRAGMA user_version = {_FORMAT};
"""


class QueueError(Exception):
    """The queue cannot be opened or written; the text is one line."""


def opened(folder: Path) -> sqlite3.Connection:
    """The database in *folder*, made where there is none; transactions are begun by hand.

    Raises:
        QueueError: it cannot be used, or another process has it open.
    """
    path = folder / FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = sqlite3.connect(path, isolation_level=None, timeout=0)
    except (OSError, sqlite3.Error) as error:
        raise QueueError(f"cannot open {path}: {error}") from None
    try:
        _prepare(database)
    except sqlite3.Error as error:
        database.close()
        reason = "another process has it open" if "locked" in str(error) else str(error)
        raise QueueError(f"cannot open {path}: {reason}") from None
    return database


def _prepare(database: sqlite3.Connection) -> None:
    # FULL: what is committed is on disk, whatever becomes of the machine.  EXCLUSIVE: a second
    # process would deliver everything once more.
    for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
        database.execute(f"PRAGMA {pragma}")
    [(version,)] = database.execute("PRAGMA user_version")
    if version not in (0, _FORMAT):
        raise sqlite3.DatabaseError(f"it has format {version}, which a newer version has written")
    database.executescript(_TABLES)
