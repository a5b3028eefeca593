# SPDX-License-Identifier: Apache-2.0
"""Agent silent: nothing has come from a node for several of its intervals.

An agent reports at every interval, also that nothing happened, so silence means that it, its node or
its way to Kafka is gone.  What counts is when records arrive: rows that are late come from an agent
that lives.  An agent that has told its end, because it was stopped, may be away for longer, and a
capture that was replayed is no agent.  While Kafka itself does not answer, no time passes.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from consumer.alerts import evidence
from consumer.alerts.alert import Sighting
from consumer.alerts.rows import NS_PER_S, Rows
from schemas.ledger import HOOKS
from schemas.wire import Batch, Names
from service.options import option

_MOST_NODES = 1 << 14
_FIRST_INTERVAL_S = 1.0
_LONGEST_INTERVAL_S = 300.0
# Each interval weighs so much in what a node is used to.
_WEIGHT = 0.2
_FORGET_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Thresholds of `[alert.agent_silent]`."""

    intervals: float = option(5, "intervals of the node without a record", group="")
    seconds: float = option(10.0, "and seconds, at least", group="")
    stopped: float = option(300.0, "seconds after an agent was stopped in order", group="")


@dataclass(slots=True)
class _Node:
    heard_ns: int  # by the clock
    interval_s: float = _FIRST_INTERVAL_S
    is_stopped: bool = False
    is_replay: bool = False  # no agent, but a capture that ends
    run: str = ""


class AgentSilent:
    """Silent nodes; see the module."""

    name = "agent_silent"
    about = (
        "No record of a node for several of its intervals.  It is over when the node is heard again,"
        " and a node that stays away for a day is forgotten."
    )
    kinds = ("ledger", "delivery", "flow", "socket", "interface")
    hold_s = 2.0
    learns = ()

    def __init__(self, options: Options) -> None:
        self._options = options
        self._nodes: OrderedDict[str, _Node] = OrderedDict()
        self._looked_ns = 0

    @property
    def size_bytes(self) -> int:
        return 512 * len(self._nodes)

    def take(self, rows: Rows, now_ns: int) -> Sequence[Sighting]:
        for batch in rows.batches:
            node = self._nodes.setdefault(batch.node, _Node(now_ns))
            self._nodes.move_to_end(batch.node)
            if batch.kind == "ledger":
                node.interval_s += _WEIGHT * (_interval_s(batch) - node.interval_s)
                node.is_replay = _is_replay(batch)
            if batch.kind == "delivery":
                node.is_stopped = _tells_its_end(batch)
            elif batch.run != node.run:
                node.is_stopped = False
            node.run = batch.run
            node.heard_ns = now_ns
        while len(self._nodes) > _MOST_NODES:
            self._nodes.popitem(last=False)
        return ()

    def pause(self, now_ns: int) -> None:
        """Let the time since the last look pass for no node."""
        passed = now_ns - self._looked_ns if self._looked_ns else 0
        for node in self._nodes.values():
            node.heard_ns = min(node.heard_ns + passed, now_ns)
        self._looked_ns = now_ns

    def look(self, now_ns: int) -> Sequence[Sighting]:
        self._looked_ns = now_ns
        found = []
        for name, node in list(self._nodes.items()):
            silent_s = (now_ns - node.heard_ns) / NS_PER_S
            allowed_s = self._allowed_s(node)
            if silent_s > _FORGET_S:
                del self._nodes[name]
            elif silent_s > allowed_s and not node.is_replay:
                found.append(self._sighting(name, node, silent_s, allowed_s, now_ns))
        return found

    def _allowed_s(self, node: _Node) -> float:
        if node.is_stopped:
            return self._options.stopped
        return max(self._options.seconds, self._options.intervals * node.interval_s)

    def _sighting(
        self, name: str, node: _Node, silent_s: float, allowed_s: float, now_ns: int
    ) -> Sighting:
        why = ", which was stopped in order," if node.is_stopped else ""
        return Sighting(
            detector=self.name,
            labels={"node": name},
            severity="warning" if node.is_stopped else "critical",
            summary=f"node {evidence.shown(name)}{why} is silent: no record for {silent_s:.0f} s",
            evidence=evidence.query(
                "time, end, interface, direction, seen_packets",
                "ledger",
                f"node = {evidence.literal(name)}",
                evidence.during(node.heard_ns, node.heard_ns, margin_s=60),
                tail="ORDER BY time DESC",
            ),
            value=silent_s,
            threshold=allowed_s,
            seen_ns=now_ns,
            began_ns=node.heard_ns,
        )


def _interval_s(batch: Batch) -> float:
    ends = batch.columns.get("end")
    if not isinstance(ends, np.ndarray) or not batch.rows:
        return _FIRST_INTERVAL_S
    # An agent that was held up reports a longer one, and a clock that steps any.
    return float(np.clip((ends - batch.columns["time"])[0] / NS_PER_S, 0.1, _LONGEST_INTERVAL_S))


def _is_replay(batch: Batch) -> bool:
    hooks = batch.columns.get("hook")
    return isinstance(hooks, np.ndarray) and bool((hooks == HOOKS["replay"]).any())


def _tells_its_end(batch: Batch) -> bool:
    """Whether the books are the last of the run that wrote them, not of one before it."""
    of_run, is_last = batch.columns.get("of_run"), batch.columns.get("is_last")
    if not isinstance(of_run, Names) or not isinstance(is_last, np.ndarray):
        return False
    if batch.run not in of_run.categories:
        return False
    return bool(is_last[of_run.codes == of_run.categories.index(batch.run)].any())
