# SPDX-License-Identifier: Apache-2.0
"""Fuzz what reads what somebody else wrote: `python -m tests.fuzz TARGET [--seconds N]`.

Atheris watches which branches an input takes and changes those that took new ones, so it gets
further into a format than chance does.  An input that makes a target fail is written into a file,
`crash-...`, and `python -m tests.fuzz TARGET --replay FILE` repeats it.
"""

import argparse
import dataclasses
import json
import random
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

# The libraries are not instrumented: what is theirs is tried, not explored.
with atheris.instrument_imports(
    include=["agent", "consumer", "schemas", "service"], enable_loader_override=False
):
    from agent.config import Config as AgentConfig
    from agent.segments import Name
    from agent.spool import Spool
    from consumer.config import Config as ConsumerConfig
    from consumer.record import Accepted, Record, Rejected, judge
    from schemas import wire
    from schemas.rules.boxes import boxes_of
    from schemas.rules.rule import MAX_BOXES, Rule, RuleError
    from schemas.rules.rulesfile import rules_in
    from service.messages import MessageError, packed, unpacked
    from service.options import ConfigError, build, is_secret
    from service.secrets import exposed
    from service.unpack import Allowance, Batches
    from tests.services.bombs import CODECS

from tests.schemas.batches import a_batch
from tests.schemas.filters import a_filter
from tests.service.test_unpack import built

# What an input may become, on top of what is there: far below what it would take unbounded.
_MEMORY_BYTES = 2 << 30
_INPUT_BYTES = 1 << 16
_INPUT_SECONDS = 5
ROOT = Path(__file__).parents[2]
_SEGMENT = "00000000000000000000.batches"


def record(content: bytes) -> None:
    """A payload is a batch of rows, or is rejected."""
    try:
        batch = wire.decode(content)
    except wire.WireError:
        return
    assert all(_length(column) == batch.rows for column in batch.columns.values())


def batches(content: bytes) -> None:
    """An answer of a broker is records, each of which is accepted or rejected."""
    found = Batches(Allowance(), content)
    found.has_next()
    while found.has_next():
        batch = found.next_batch()
        batch.validate_crc()
        for one in batch:
            payload = one.value if isinstance(one.value, bytes) else b""
            verdict = judge(Record("hookline.flow.v1", 0, one.offset, 0, one.key, payload))
            assert isinstance(verdict, Accepted | Rejected)


def spool(content: bytes) -> None:
    """The file of a spool gives batches in order, or is given up; what is appended follows."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        Path(folder, _SEGMENT).write_bytes(content)
        opened = Spool(Path(folder), 1 << 30)
        opened.peek(1000)
        appended = Name("web-1", "another run", "flow", 0, 1), b"payload"
        opened.append([appended])
        last = opened.peek(1000)[-1]
        assert (last.name, last.payload) == appended
        opened.close()


def configuration(content: bytes) -> None:
    """A file of options is a configuration, or is refused in one line."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(content)
        file.flush()
        for table, cls in (("agent", AgentConfig), ("consumer", ConsumerConfig)):
            said = _refusal(cls, table, Path(file.name))
            assert len(said.splitlines()) <= 1, said


def rules(content: bytes) -> None:
    """A message is a rule and a file is rules, or they are refused in one line."""
    for read in (_rule_of_message, _rules_of_file):
        found, said = _rules_or_refusal(read, content)
        assert len(said.splitlines()) <= 1, said
        for rule in found:
            assert len(boxes_of(rule)) <= MAX_BOXES
            assert Rule.from_message(rule.to_message()) == rule


def _rules_or_refusal(
    read: Callable[[bytes], list[Rule]], content: bytes
) -> tuple[list[Rule], str]:
    try:
        return read(content), ""
    except RuleError as error:
        return [], str(error)
    except (MessageError, UnicodeDecodeError):
        return [], ""


def _rule_of_message(content: bytes) -> list[Rule]:
    return [Rule.from_message(unpacked(content))]


def _rules_of_file(content: bytes) -> list[Rule]:
    return list(rules_in(content.decode(), lambda path: f"10.0.0.0/8\n{path}\n"))


def _refusal(cls: type, table: str, file: Path) -> str:
    try:
        exposed(build(cls, table=table, flags={}, environ={}, file=file))
    except ConfigError as error:
        return str(error)
    return ""


def _length(column: wire.Column) -> int:
    if isinstance(column, wire.Names):
        return len(column.codes)
    return len(column.lengths if isinstance(column, wire.Text) else column)


def _records() -> list[bytes]:
    return [wire.encode(a_batch(kind, rows=rows)) for kind in ("flow", "dns") for rows in (0, 2)]


def _answers() -> list[bytes]:
    return [built([(1, b"web-1", one) for one in _records()], codec=codec) for codec in CODECS]


def _segments() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        filled = Spool(Path(folder), 1 << 30)
        for seq, payload in enumerate((b"x" * 100, b"", *_records())):
            filled.append([(Name("web-1", "run-1", "flow", seq, 10), payload)])
        filled.close()
        (path,) = Path(folder).glob("*.batches")
        assert path.name == _SEGMENT
        return [path.read_bytes()]


def _configurations() -> list[bytes]:
    options = [
        f"{field.name} = {json.dumps(field.default)}\n"
        for cls in (AgentConfig, ConsumerConfig)
        for field in dataclasses.fields(cls)
        if not is_secret(field)
    ]
    shown = (ROOT / "deploy/systemd/hookline.toml").read_bytes()
    return [shown, *(one.encode() for one in options)]


def _rules() -> list[bytes]:
    page = (ROOT / "docs/reference/rules.md").read_text()
    shown = page.partition("```yaml\n")[2].partition("```")[0]
    messages = [packed(rule.to_message())[4:] for rule in rules_in(shown, str)]
    matches = [a_filter(random.Random(number)) for number in range(50)]
    listed = [f"rules: [{{name: r, match: {json.dumps(match)}}}]".encode() for match in matches]
    return [shown.encode(), *messages, *listed]


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "record": (record, _records),
    "batches": (batches, _answers),
    "spool": (spool, _segments),
    "configuration": (configuration, _configurations),
    "rules": (rules, _rules),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="how long (default: 60)")
    parser.add_argument("--corpus", type=Path, help="a folder that keeps inputs between runs")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="only this input")
    arguments = parser.parse_args()
    target, seeds = TARGETS[arguments.target]
    if arguments.replay:
        target(arguments.replay.read_bytes())
        return
    with tempfile.TemporaryDirectory(prefix="hookline-fuzz-") as folder:
        for number, seed in enumerate(seeds()):
            Path(folder, f"seed-{number}").write_bytes(seed)
        resource.setrlimit(resource.RLIMIT_AS, (_used_bytes() + _MEMORY_BYTES,) * 2)
        corpora = [str(arguments.corpus), folder] if arguments.corpus else [folder]
        options = {
            "max_total_time": arguments.seconds,
            "max_len": _INPUT_BYTES,
            "timeout": _INPUT_SECONDS,
            # Ours is the limit that counts.
            "rss_limit_mb": 0,
            "print_final_stats": 1,
        }
        flags = [f"-{name}={value}" for name, value in options.items()]
        atheris.Setup([sys.argv[0], *flags, *corpora], target)
        atheris.Fuzz()


def _used_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
