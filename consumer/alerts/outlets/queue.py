# SPDX-License-Identifier: Apache-2.0
"""What destinations have still to be told, in order, and what they know.

A change leaves in the same transaction in which it becomes told, rejected or lost, so whatever is
killed, it is delivered again rather than not at all.  Everything blocks: one thread owns a queue.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from consumer.alerts.alert import Alert
from consumer.alerts.outlets.change import FIRING, RESOLVED, Change, Delivery, alert_from, text_from
from consumer.alerts.outlets.database import opened
from consumer.alerts.outlets.destination import Destination
from consumer.alerts.outlets.told import REJECTED, Told

MAX_CHANGES_PER_DELIVERY = 500
MAXREJECTED = 1000
_NS = 1_000_000_000
# What came so much later than now came before the clock was set back.
CLOCK_STEP_NS = 10 * _NS


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many changes a destination has still to be told, and since when the oldest waits."""

    changes: int
    oldest_ns: int


class Queue:
    """The queue in *folder*, which no other process has open at the same time.

    Its methods raise `sqlite3.Error` where the disk is full or broken, and have done nothing then.

    Raises:
        QueueError: it cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._db = opened(folder)
        self._told = Told(self._db)

    def close(self) -> None:
        self._db.close()

    def put(
        self, alerts: Sequence[Alert], to: Collection[Destination], now_ns: int
    ) -> Mapping[str, int]:
        """Take *alerts*; once it returns they are on disk.

        Of how many each destination has been told the same before, which are not told again.
        """
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            return {one.name: sum(self._put(alert, one, now_ns) for alert in alerts) for one in to}

    # Whether the destination has been told the same before: 1 or 0.
    def _put(self, alert: Alert, to: Destination, now_ns: int) -> int:
        last = self._told.last(to.name, alert.sighting.fingerprint)
        if alert.status == RESOLVED:
            return self._put_resolved(alert, to, last, now_ns)
        if not to.wants(alert):
            return 0
        if last and last[0] != RESOLVED and last[1] == alert.sighting.severity:
            self._told.refresh(to.name, alert)
            return 1
        self._enter(Change(alert), to, now_ns)
        return 0

    def _put_resolved(
        self, alert: Alert, to: Destination, last: tuple[str, str] | None, now_ns: int
    ) -> int:
        # Only who was told that it fires, or will be, is told that it ends.
        if last and last[0] == FIRING:
            # It ends as what it was told to be: to Alertmanager another severity is another alert.
            known = replace(alert, sighting=replace(alert.sighting, severity=last[1]))
            self._enter(Change(known), to, now_ns)
            return 0
        if last and last[0] == REJECTED:
            self._told.forget(to.name, alert.sighting.fingerprint)
        return 1 if last else 0

    def _enter(self, change: Change, to: Destination, now_ns: int) -> None:
        alert = change.alert
        self._db.execute(
            "INSERT INTO changes (outlet, grouped, fingerprint, status, severity, repeat, alert,"
            " entered_ns, ready_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(to.name, to.group(alert), alert.sighting.fingerprint, alert.status),
                *(alert.sighting.severity, change.repeat, text_from(alert)),
                *(now_ns, now_ns + int(to.group_wait * _NS)),
            ),
        )

    def remind(self, to: Destination, now_ns: int) -> None:
        """Take again what still fires and was told *repeat* ago."""
        if not to.repeat:
            return
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for reminder in self._told.due(to.name, now_ns - int(to.repeat * _NS)):
                self._enter(reminder, to, now_ns)

    def take(
        self, to: Destination, now_ns: int, *, resting: Collection[int], most: int
    ) -> Delivery | None:
        """What to send next: a delivery that was begun, else a new one of what is ready.

        Deliveries in *resting* are left alone, and so is what belongs into one of their groups, so
        that no alert is told to end before it is told to fire.  Where more than *most* groups are
        ready, they go together.
        """
        begun = self._db.execute(
            "SELECT number, key, is_summary FROM deliveries WHERE outlet = ? ORDER BY number",
            (to.name,),
        ).fetchall()
        for number, key, is_summary in begun:
            if number not in resting:
                return Delivery(number, key, self._changes(number), bool(is_summary))
        return self._new(to, now_ns, most)

    def _new(self, to: Destination, now_ns: int, most: int) -> Delivery | None:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            groups = [group for (group,) in self._db.execute(*_ready(to.name, now_ns))]
            if not groups:
                return None
            is_summary = len(groups) > most
            chosen = groups if is_summary else groups[:1]
            numbers, changes = self._of_groups(to.name, chosen)
            key = changes[0].key if len(changes) == 1 else _joined(changes)
            number = self._db.execute(
                "INSERT INTO deliveries (outlet, key, is_summary) VALUES (?, ?, ?)",
                (to.name, key, is_summary),
            ).lastrowid
            assert number is not None  # noqa: S101  # it was inserted
            self._db.executemany(
                "UPDATE changes SET delivery = ? WHERE number = ?",
                [(number, one) for one in numbers],
            )
        return Delivery(number, key, tuple(changes), is_summary)

    def _of_groups(self, outlet: str, groups: Sequence[str]) -> tuple[list[int], list[Change]]:
        """The oldest changes of *groups*, as many as go into a delivery."""
        wanted = set(groups)
        numbers: list[int] = []
        changes: list[Change] = []
        for number, grouped, alert, repeat in self._db.execute(
            "SELECT number, grouped, alert, repeat FROM changes"
            " WHERE outlet = ? AND delivery IS NULL ORDER BY number",
            (outlet,),
        ):
            if grouped in wanted:
                numbers.append(number)
                changes.append(Change(alert_from(alert), repeat))
            if len(numbers) == MAX_CHANGES_PER_DELIVERY:
                break
        return numbers, changes

    def _changes(self, delivery: int) -> tuple[Change, ...]:
        rows = self._db.execute(
            "SELECT alert, repeat FROM changes WHERE delivery = ? ORDER BY number", (delivery,)
        )
        return tuple(Change(alert_from(alert), repeat) for alert, repeat in rows)

    def told(self, to: Destination, delivery: Delivery, now_ns: int) -> None:
        """The destination has taken the delivery."""
        self._settle(to, delivery, FIRING, now_ns)

    def reject(self, to: Destination, delivery: Delivery, reason: str, now_ns: int) -> None:
        """The destination has refused the delivery, and would again."""
        rows = [
            (to.name, one.key, text_from(one.alert), reason, now_ns) for one in delivery.changes
        ]
        self._settle(to, delivery, REJECTED, now_ns, rows)

    def _settle(
        self,
        to: Destination,
        delivery: Delivery,
        status: str,
        now_ns: int,
        rejected: Sequence[tuple[object, ...]] = (),
    ) -> None:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for change in delivery.changes:
                self._told.learn(to.name, change, status, now_ns)
            self._db.execute("DELETE FROM changes WHERE delivery = ?", (delivery.number,))
            self._db.execute("DELETE FROM deliveries WHERE number = ?", (delivery.number,))
            self._db.executemany(
                "INSERT INTO rejected (outlet, key, alert, reason, rejected_ns)"
                " VALUES (?, ?, ?, ?, ?)",
                rejected,
            )
            self._db.execute(
                "DELETE FROM rejected WHERE number <= (SELECT max(number) FROM rejected) - ?",
                (MAXREJECTED,),
            )

    def give_up(self, to: Destination, now_ns: int) -> int:
        """Give up what waits for too long, and the oldest of too much; how many these are."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            [(waiting,)] = self._db.execute(
                "SELECT count(*) FROM changes WHERE outlet = ?", (to.name,)
            )
            lost = self._db.execute(
                "SELECT number, fingerprint, status FROM changes WHERE outlet = ? AND entered_ns < ?"
                " UNION SELECT * FROM (SELECT number, fingerprint, status FROM changes"
                " WHERE outlet = ? ORDER BY number LIMIT ?)",
                (
                    *(to.name, now_ns - int(to.max_age * _NS)),
                    *(to.name, max(0, waiting - to.max_waiting)),
                ),
            ).fetchall()
            for number, fingerprint, status in lost:
                self._db.execute("DELETE FROM changes WHERE number = ?", (number,))
                if status == RESOLVED:  # else it would be reminded of for ever
                    self._told.forget(to.name, fingerprint)
            if lost:
                self._db.execute(
                    "DELETE FROM deliveries WHERE number NOT IN"
                    " (SELECT delivery FROM changes WHERE delivery IS NOT NULL)"
                )
        return len(lost)

    def waiting(self, to: Destination) -> Waiting:
        [(changes, oldest_ns)] = self._db.execute(
            "SELECT count(*), coalesce(min(entered_ns), 0) FROM changes WHERE outlet = ?",
            (to.name,),
        )
        return Waiting(changes, oldest_ns)

    def next_ns(self, to: Destination) -> int | None:
        """When there will be something to do that waits for its time: a group, or a reminder."""
        [(ready_ns,)] = self._db.execute(
            "SELECT min(ready_ns) FROM changes WHERE outlet = ? AND delivery IS NULL", (to.name,)
        )
        told_ns = self._told.oldest_ns(to.name) if to.repeat else None
        reminder_ns = None if told_ns is None else told_ns + int(to.repeat * _NS)
        return min((at for at in (ready_ns, reminder_ns) if at is not None), default=None)

    def firing(self) -> list[Alert]:
        """What some destination believes to fire, or is about to."""
        return self._told.firing()

    def leave(self, names: Collection[str]) -> Mapping[str, int]:
        """Forget all destinations but *names*; how many changes waited for each of the others."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            left = self._db.execute(
                "SELECT outlet, count(number) FROM"
                " (SELECT outlet, NULL AS number FROM told UNION ALL"
                " SELECT outlet, number FROM changes) GROUP BY outlet"
            ).fetchall()
            others = {name: waiting for name, waiting in left if name not in names}
            for table in ("changes", "deliveries", "told"):
                self._db.executemany(
                    f"DELETE FROM {table} WHERE outlet = ?", [(name,) for name in others]
                )
        return {name: waiting for name, waiting in others.items() if waiting}


def _ready(outlet: str, now_ns: int) -> tuple[str, tuple[object, ...]]:
    """Groups whose time has come, the oldest first; also where the clock was set back."""
    query = (
        "SELECT grouped FROM changes WHERE outlet = ? AND delivery IS NULL AND grouped NOT IN"
        " (SELECT grouped FROM changes WHERE outlet = ? AND delivery IS NOT NULL)"
        " GROUP BY grouped HAVING min(ready_ns) <= ? OR max(entered_ns) > ? ORDER BY min(number)"
    )
    return query, (outlet, outlet, now_ns, now_ns + CLOCK_STEP_NS)


def _joined(changes: Sequence[Change]) -> str:
    return sha256("\n".join(change.key for change in changes).encode()).hexdigest()[:32]
