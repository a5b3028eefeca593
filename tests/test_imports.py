# SPDX-License-Identifier: Apache-2.0
"""Keep the arrows between packages, and one owner for each foreign system.

The rules are tables; a broken one is reported as `file:line: rule`, so that the reader can go
there.  Imports are read from the source, none is executed: bcc need not be installed.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Who may import whom.  Nothing imports tests or bench.
ALLOWED = {
    "schemas": {"schemas"},
    "service": {"service"},
    "agent": {"agent", "schemas", "service"},
    "consumer": {"consumer", "schemas", "service"},
    "hookline": {"hookline", "agent", "consumer", "schemas", "service"},
}
OURS = {*ALLOWED, "tests", "bench"}

# A foreign system's quirks are known in one place; a second importer would learn them again.
OWNERS = {
    "bcc": {"agent/compiler.py"},
    "pyroute2": {"agent/netlink.py"},
    # One for each direction; unpack stands in for a part of it, quarantine writes what could not be
    # read and alerts what was found, hookline's topics does both by hand, the consumer's only makes
    # them, and reach only comes in.  Beside source, membership reaches behind the client's face,
    # and kafka_errors sorts what it says.
    "aiokafka": {
        "agent/publisher.py",
        "agent/rules/subscriber.py",
        "consumer/source.py",
        "service/unpack.py",
        "consumer/membership.py",
        "consumer/kafka_errors.py",
        "consumer/quarantine.py",
        "consumer/rule_orders.py",
        "consumer/topics.py",
        "consumer/alerts/publisher.py",
        "hookline/topics.py",
        "service/reach.py",
    },
    "chdb": {"consumer/api/engine.py"},
    "clickhouse_connect": {
        "consumer/clickhouse_errors.py",
        "consumer/sink.py",
        "consumer/alerts/reader.py",
        "hookline/history.py",
    },
}


def imported_names(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the top-level package of every absolute import."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.partition(".")[0]


def broken_rules(path: str, source: str) -> list[str]:
    """List what *source*, the module at *path* below the root, imports against the rules."""
    package = path.partition("/")[0]
    found = []
    for line, name in imported_names(source):
        if name in OURS - ALLOWED[package]:
            found.append(f"{path}:{line}: {package} must not import {name}")
        if path not in OWNERS.get(name, {path}):
            owners = " and ".join(sorted(OWNERS[name]))
            found.append(f"{path}:{line}: {name} is imported only by {owners}")
    return found


def test_every_import_follows_the_rules():
    modules = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]

    broken = [
        rule
        for module in modules
        for rule in broken_rules(module.relative_to(ROOT).as_posix(), module.read_text())
    ]

    assert modules
    assert not broken, "\n" + "\n".join(broken)


def test_a_package_that_reaches_across_is_named_with_its_line():
    source = "import json\n\ndef late():\n    from consumer.sink import Sink\n"

    assert broken_rules("agent/pipeline.py", source) == [
        "agent/pipeline.py:4: agent must not import consumer"
    ]


def test_a_second_importer_of_a_foreign_system_is_named_with_its_owners():
    source = "import bcc.table as table\n"

    [broken] = broken_rules("agent/ring.py", source)

    assert broken == "agent/ring.py:1: bcc is imported only by agent/compiler.py"


def test_an_owner_may_import_its_foreign_system():
    assert broken_rules("agent/compiler.py", "from bcc import BPF\n") == []
