# SPDX-License-Identifier: Apache-2.0
"""What destinations know: which alerts fire, or were refused, as they were told last."""

import sqlite3
from collections.abc import Iterator

from consumer.alerts.alert import Alert
from consumer.alerts.outlets.change import FIRING, RESOLVED, Change, alert_from, text_from

# What a destination has refused once is not told again while it stays the same.
REJECTED = "rejected"


class Told:
    """The table `told`, within the transactions of the queue."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database

    def last(self, outlet: str, fingerprint: str) -> tuple[str, str] | None:
        """Status and severity that *outlet* knows once nothing waits for it; None for neither."""
        for table in ("changes", "told"):
            rows = self._db.execute(
                f"SELECT status, severity FROM {table} WHERE outlet = ? AND fingerprint = ?"
                " ORDER BY rowid DESC LIMIT 1",
                (outlet, fingerprint),
            ).fetchall()
            if rows:
                status, severity = rows[0]
                return status, severity
        return None

    def refresh(self, outlet: str, alert: Alert) -> None:
        """A reminder will tell what *alert* says."""
        self._db.execute(
            "UPDATE told SET alert = ? WHERE outlet = ? AND fingerprint = ? AND status = ?",
            (text_from(alert), outlet, alert.sighting.fingerprint, FIRING),
        )

    def learn(self, outlet: str, change: Change, status: str, now_ns: int) -> None:
        """The outlet has been told of *change*; *status* is firing, or rejected."""
        sighting = change.alert.sighting
        if change.alert.status == RESOLVED:
            self.forget(outlet, sighting.fingerprint)
            return
        self._db.execute(
            "INSERT OR REPLACE INTO told VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(outlet, sighting.fingerprint, status, sighting.severity),
                *(change.repeat, text_from(change.alert), now_ns),
            ),
        )

    def forget(self, outlet: str, fingerprint: str) -> None:
        self._db.execute(
            "DELETE FROM told WHERE outlet = ? AND fingerprint = ?", (outlet, fingerprint)
        )

    def due(self, outlet: str, before_ns: int) -> list[Change]:
        """Reminders of what fires, was last told before *before_ns*, and of which nothing waits."""
        rows = self._db.execute(
            "SELECT alert, repeat FROM told WHERE outlet = ? AND status = ? AND told_ns <= ?"
            " AND NOT EXISTS (SELECT 1 FROM changes WHERE changes.outlet = told.outlet"
            " AND changes.fingerprint = told.fingerprint)",
            (outlet, FIRING, before_ns),
        )
        return [Change(alert_from(alert), repeat + 1) for alert, repeat in rows]

    def oldest_ns(self, outlet: str) -> int | None:
        """When the one was told of which a reminder is due first."""
        [(told_ns,)] = self._db.execute(
            "SELECT min(told_ns) FROM told WHERE outlet = ? AND status = ?", (outlet, FIRING)
        )
        return None if told_ns is None else int(told_ns)

    def firing(self) -> list[Alert]:
        """What some destination believes to fire, or will once nothing waits for it."""
        latest: dict[str, Alert | None] = {}
        for status, fingerprint, alert in self._all():
            latest[fingerprint] = alert_from(alert) if status == FIRING else None
        return [alert for alert in latest.values() if alert]

    def _all(self) -> Iterator[tuple[str, str, str]]:
        for source in (f"told WHERE status = '{FIRING}'", "changes ORDER BY number"):
            yield from self._db.execute(f"SELECT status, fingerprint, alert FROM {source}")
