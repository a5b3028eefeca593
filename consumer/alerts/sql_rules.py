# SPDX-License-Identifier: Apache-2.0
"""Ask ClickHouse the rules of a file, each in its own time, and say what they find.

    due -> ask in a thread, with bounds -> rows beyond the threshold -> sightings

A rule is never asked while it is still being answered.  What it found last counts until it is
answered again; while it fails, nobody knows that it is over.  That a rule fails, or finds more than
can be told, is a sighting of its own.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from consumer.alerts.alert import Sighting
from consumer.alerts.evidence import shown
from consumer.alerts.reader import Answer, QuestionRefused, Reader
from consumer.alerts.rule_file import MAX_ROWS, Rule, rules_in
from consumer.alerts.rule_findings import (
    RULE_FAILS,
    check_columns,
    complaint,
    sighting_of,
)
from consumer.server import Server
from consumer.sink import SinkUnavailable
from service.options import ConfigError

AT_ONCE = 2
# Rows are stored this long after their interval, so a look at the last seconds would miss some.
STORED_AFTER_S = 5
# A rule that failed is tried again so soon, and it is an alert when it fails so often in a row:
# a server that restarts is none.
RETRY_S = 10
FAILURES_TO_TELL = 2
_NS = 1_000_000_000

log = logging.getLogger(__name__)


def sql_rules_of(
    path: Path,
    dsn: str,
    server: Server,
    *,
    taken: Collection[str] = (),
    registry: CollectorRegistry | None = None,
) -> "SqlRules":
    """The rules of the file *path*, to be asked at *dsn*; names in *taken* are those of others.

    Raises:
        ConfigError: the file cannot be used; the text is one line that names its place.
    """
    rules = rules_in(path, {*taken, RULE_FAILS})
    return SqlRules(rules, Reader(dsn, server, at_once=AT_ONCE), registry or CollectorRegistry())


@dataclass(slots=True)
class _State:
    """What is known of one rule."""

    rule: Rule
    next_ns: int = 0
    task: asyncio.Task[None] | None = None
    is_late: bool = False
    began_ns: dict[str, int] = field(default_factory=dict)  # by fingerprint
    found: list[Sighting] = field(default_factory=list)
    complaints: list[Sighting] = field(default_factory=list)
    failures: int = 0
    failed_ns: int = 0  # when the first of those failures was


class SqlRules:
    """Rules in SQL, from `start` to `stop`."""

    def __init__(self, rules: Sequence[Rule], reader: Reader, registry: CollectorRegistry) -> None:
        self._reader = reader
        self._states = [_State(rule) for rule in rules]
        self._threads = ThreadPoolExecutor(AT_ONCE, "rules")
        self._counts = _Counts([rule.name for rule in rules], registry)

    @property
    def names(self) -> list[str]:
        """The detectors of all sightings that `due` may return."""
        return [*(state.rule.name for state in self._states), RULE_FAILS]

    async def start(self, now_ns: int) -> None:
        """Connect, and check that every rule can be asked.

        Raises:
            SinkUnavailable: ClickHouse does not answer, refuses us, or has no tables yet.
            ConfigError: a rule cannot be asked; the text is one line that names its place.
        """
        await self._in_thread(self._reader.connect)
        for state in self._states:
            await self._check(state.rule, now_ns)

    async def _check(self, rule: Rule, now_ns: int) -> None:
        try:
            described = await self._ask(f"DESCRIBE TABLE (\n{rule.rows_at(now_ns)}\n)")
            types = {str(row[0]): str(row[1]) for row in described.rows}
            check_columns(rule, types)
            # Unlike a description, a plan is only made of what we may read.
            await self._ask(f"EXPLAIN {rule.statement_at(now_ns)}")
        except QuestionRefused as error:
            raise ConfigError(f"{rule.where}: {error}") from None
        except SinkUnavailable as error:
            raise SinkUnavailable(f"{rule.where}: {error}") from None

    async def due(self, now_ns: int) -> list[Sighting]:
        """What all rules see at the wall time *now_ns*, as far as they are answered.

        Returns at once: rules whose time has come are asked meanwhile, and what they find is in
        what a later call returns.  What is found is returned by every call until it is over.
        """
        for state in self._states:
            self._turn(state, now_ns)
        found: list[Sighting] = []
        for state in self._states:
            found += state.found
            found += state.complaints
        return found

    def _turn(self, state: _State, now_ns: int) -> None:
        every_ns = state.rule.every_s * _NS
        if state.task and state.task.done():
            task, state.task = state.task, None
            task.result()  # a fault of ours is not to be hidden
        # Where the clock was set back, the next time may be far ahead.
        if now_ns < state.next_ns <= now_ns + every_ns:
            return
        if state.task:
            if not state.is_late:
                state.is_late = True
                self._counts.late.labels(state.rule.name).inc()
            return
        state.is_late = False
        state.next_ns = now_ns + every_ns
        state.task = asyncio.create_task(self._run(state, now_ns))

    async def settled(self) -> None:
        """Return once every rule that was asked is answered."""
        if running := [state.task for state in self._states if state.task]:
            await asyncio.wait(running)

    async def stop(self) -> None:
        """Ask no more; what is being asked ends by its own limits."""
        tasks = [state.task for state in self._states if state.task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        self._reader.close()

    async def _run(self, state: _State, now_ns: int) -> None:
        until_ns = now_ns - STORED_AFTER_S * _NS
        statement = state.rule.statement_at(until_ns)
        began = perf_counter()
        try:
            answer = await self._ask(statement)
        except (QuestionRefused, SinkUnavailable) as error:
            self._failed(state, now_ns, statement, str(error))
            return
        finally:
            self._counts.seconds.labels(state.rule.name).observe(perf_counter() - began)
        state.failures = 0
        state.complaints = []
        self._take(state, answer, until_ns, statement)

    def _failed(self, state: _State, now_ns: int, statement: str, reason: str) -> None:
        rule = state.rule
        self._counts.failed.labels(rule.name).inc()
        log.warning("rule fails", extra={"rule": rule.name, "reason": reason})
        state.failures += 1
        if state.failures == 1:
            state.failed_ns = now_ns
        state.next_ns = min(state.next_ns, now_ns + RETRY_S * _NS)
        if state.failures >= FAILURES_TO_TELL:
            state.complaints = [
                complaint(
                    rule,
                    "error",
                    f"rule {rule.name} fails: {shown(reason)}",
                    evidence=statement,
                    value=state.failures,
                    threshold=FAILURES_TO_TELL,
                    times_ns=(state.failed_ns, now_ns),
                )
            ]

    def _take(self, state: _State, answer: Answer, until_ns: int, statement: str) -> None:
        rule = state.rule
        by_fingerprint: dict[str, Sighting] = {}
        for row in answer.rows[:MAX_ROWS]:
            one = sighting_of(rule, dict(zip(answer.names, row, strict=True)), until_ns, statement)
            # The first is the furthest beyond the threshold.
            by_fingerprint.setdefault(one.fingerprint, one)
        state.began_ns = {
            # The clock may have been set back since.
            fingerprint: min(state.began_ns.get(fingerprint, until_ns), until_ns)
            for fingerprint in by_fingerprint
        }
        state.found = [
            replace(one, began_ns=state.began_ns[fingerprint])
            for fingerprint, one in by_fingerprint.items()
            if until_ns - state.began_ns[fingerprint] >= rule.for_s * _NS
        ]
        shared = min(len(answer.rows), MAX_ROWS) - len(by_fingerprint)
        self._complain(state, len(answer.rows), shared, until_ns, statement)

    def _complain(
        self, state: _State, rows: int, shared: int, until_ns: int, statement: str
    ) -> None:
        """Say where not every row is an alert."""
        rule = state.rule
        told: dict[str, Any] = {"evidence": statement, "times_ns": (until_ns, until_ns)}
        if rows > MAX_ROWS:
            self._counts.dropped.labels(rule.name).inc()
            text = (
                f"rule {rule.name} finds more than {MAX_ROWS} rows, of which the rest is left out"
            )
            state.complaints.append(
                complaint(rule, "rows", text, value=MAX_ROWS + 1, threshold=MAX_ROWS, **told)
            )
        if shared:
            text = (
                f"rule {rule.name} has {shared} rows with the labels of others, which are left out;"
                " add the column that tells them apart to its labels"
            )
            state.complaints.append(
                complaint(rule, "labels", text, value=shared, threshold=0, **told)
            )

    async def _ask(self, sql: str) -> Answer:
        answer: Answer = await self._in_thread(self._reader.ask, sql)
        return answer

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


class _Counts:
    def __init__(self, names: Sequence[str], registry: CollectorRegistry) -> None:
        def counter(name: str, doc: str) -> Counter:
            made = Counter(f"alert_rule_{name}", doc, ["rule"], registry=registry)
            for rule in names:
                made.labels(rule)
            return made

        self.failed = counter("failures", "runs of a rule that ended with an error")
        self.late = counter("late_runs", "runs that came late because the one before took so long")
        self.dropped = counter("dropped_runs", f"runs that found more than {MAX_ROWS} rows")
        self.seconds = Histogram(
            "alert_rule_seconds",
            "time that a rule's query takes",
            ["rule"],
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30),
            registry=registry,
        )
