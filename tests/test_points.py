# SPDX-License-Identifier: Apache-2.0
"""Every point at which rows on their way may be cut off has a test that cuts there.

A point is a call that writes, syncs, deletes, sends, inserts or commits, in a module that rows pass
on their way from the kernel to ClickHouse.  What is new must be put here, with its test.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
AGENT = (
    *("journal", "checkpoint", "outbox", "spool", "segments"),
    *("publisher", "succession", "deliveries"),
)
CONSUMER = ("source", "membership", "pipeline", "lane", "writer", "sink", "quarantine")
CALLS = {
    *("write", "writev", "fsync", "ftruncate", "unlink"),
    *("send", "send_and_wait", "insert", "raw_insert", "commit", "acknowledge"),
}

_OF_AGENT = "tests/agent/test_faults.py::test_an_agent_may_be_killed_at_each_point"
_OF_CONSUMER = "tests/consumer/test_once.py::test_a_consumer_that_is_killed_at_each_point_stores_every_batch_once"
_OF_SUCCESSION = "tests/agent/test_succession.py"
_AT_ANY_TIME = f"{_OF_SUCCESSION}::test_agents_that_are_killed_at_any_time_count_every_packet_once"
_AT_ITS_START = f"{_OF_SUCCESSION}::test_an_agent_that_is_killed_as_it_starts_leaves_nothing_that_the_next_cannot_use"
POINTS = {
    "agent/segments.py: os.writev": _OF_AGENT,
    "agent/segments.py: os.fsync": _OF_AGENT,
    "agent/spool.py: os.ftruncate": _OF_AGENT,
    "agent/spool.py: segment.path.unlink": _OF_AGENT,
    "agent/journal.py: self._checkpoint.commit": _OF_AGENT,
    "agent/outbox.py: self.spool.acknowledge": _OF_AGENT,
    "agent/publisher.py: producer.send": _AT_ANY_TIME,
    "agent/publisher.py: source.acknowledge": _AT_ANY_TIME,
    "agent/succession.py: path.unlink": _AT_ITS_START,
    "consumer/quarantine.py: self._producer.send_and_wait": _OF_CONSUMER,
    "consumer/pipeline.py: source.commit": _OF_CONSUMER,
    "consumer/source.py: self._membership.commit": _OF_CONSUMER,
    "consumer/sink.py: client.raw_insert": _OF_CONSUMER,
    "consumer/writer.py: self._sink.insert": _OF_CONSUMER,
}


def points() -> Iterator[str]:
    for folder, names in (("agent", AGENT), ("consumer", CONSUMER)):
        for name in names:
            path = Path(folder, f"{name}.py")
            for node in ast.walk(ast.parse((ROOT / path).read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                if node.func.attr in CALLS:
                    yield f"{path}: {ast.unparse(node.func)}"


def test_the_table_has_every_point_and_no_other():
    assert set(points()) == set(POINTS)


@pytest.mark.parametrize("test", sorted(set(POINTS.values())))
def test_each_point_has_a_test(test):
    path, _, name = test.partition("::")
    defined = ast.walk(ast.parse((ROOT / path).read_text()))

    assert name in {getattr(node, "name", "") for node in defined}
