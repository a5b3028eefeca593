# SPDX-License-Identifier: Apache-2.0
"""Letters that a real consumer made of really broken records: list them, read them, replay them.

The topic is shared with other tests, so everything here is about nodes of its own.
"""

import asyncio
import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgpack
import numpy as np
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from hookline.cli import main
from hookline.dead_letter.spans import letter_spans
from hookline.topics import Topics
from schemas import wire
from schemas.catalogue import RECORDS
from schemas.clickhouse import DATABASE
from schemas.dead_letter import TOPIC, Letter, Note, encode, encode_note
from service.broker import BrokerOptions
from tests.consumer.engine import Engine
from tests.consumer.process import (
    DEADLINE_S,
    FLOWS,
    POLL_S,
    Consumer,
    has_read_everything,
    held,
    publish_payloads,
)
from tests.schemas.batches import a_batch

pytestmark = pytest.mark.services

ROOT = Path(__file__).parents[2]
TOPICS = [record.topic for record in RECORDS]
# Nodes of this module, one for each thing that a test is about.
NEWER, LARGE, REFUSED, RETYPED, HOSTILE = (
    f"letters-{name}" for name in ("newer", "large", "refused", "retyped", "\x1b[31mred\n\u202e")
)
# A port by which the table tells apart what it does not take.
REFUSED_PORT = 4242

Run = Callable[..., "Said"]


@dataclass(frozen=True, slots=True)
class Said:
    code: int
    out: str
    err: str

    def lines(self) -> list[str]:
        return self.out.splitlines()

    def objects(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines()]


@pytest.fixture
def run(kafka: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `hookline dead-letter` on the broker that all tests share."""

    def said(*words: str, where: tuple[str, ...] = ("--kafka", kafka)) -> Said:
        capsys.readouterr()
        code = main(["dead-letter", *words, *where])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return said


@pytest.fixture(scope="module")
def rejected(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a consumer that has rejected what this module publishes."""
    directory = tmp_path_factory.mktemp("rejected")
    with Engine(directory / "db") as engine:
        engine.migrate()
        engine.execute(
            f"ALTER TABLE {DATABASE}.flows ADD CONSTRAINT told CHECK src_port != {REFUSED_PORT}"
        )
    asyncio.run(_publish(kafka))
    asyncio.run(_consume(kafka, directory, module="tests.consumer.older"))
    return directory


async def _publish(kafka: str) -> None:
    no_tunnel = {"tunnel": np.zeros(6, "|u1")}
    newer = [wire.encode(a_batch(rows=6, node=NEWER, seq=seq)) for seq in range(3)]
    known = wire.encode(a_batch(rows=6, node=NEWER, seq=3, columns=no_tunnel))
    port = {"src_port": np.full(6, REFUSED_PORT, "<u2")}
    refused = wire.encode(a_batch(rows=6, node=REFUSED, columns=no_tunnel | port))
    content = msgpack.unpackb(known)
    columns = {**content["cols"], "bytes": ["<f8", bytes(48)], "as_number": ["<u4", bytes(24)]}
    await publish_payloads(
        kafka,
        *((FLOWS, NEWER, payload) for payload in newer),
        (FLOWS, NEWER, known),
        (FLOWS, LARGE, wire.encode(a_batch(rows=8000, node=LARGE))),
        (FLOWS, REFUSED, refused),
        (FLOWS, RETYPED, msgpack.packb({**content, "cols": columns})),
        (FLOWS, RETYPED, msgpack.packb({**content, "cols": columns})),
        (FLOWS, RETYPED, known[:-200]),
        (FLOWS, HOSTILE, msgpack.packb({**content, "kind": HOSTILE})),
    )


async def _consume(kafka: str, directory: Path, *, module: str = "consumer") -> None:
    """Run a consumer until nothing is left to read, not even of what it makes itself."""
    flags = ["--kafka", kafka, "--group", f"group-of-{directory.name}", "--group-instance", "one"]
    flags += ["--clickhouse", f"chdb://{directory}/db", "--max-age", "0.2"]
    with Consumer(directory, *flags, module=module) as consumer:
        await consumer.until_ready()
        async with asyncio.timeout(DEADLINE_S):
            while not await has_read_everything(kafka, f"group-of-{directory.name}", TOPICS):
                assert consumer.process.poll() is None, consumer.log
                await asyncio.sleep(POLL_S)
        assert await consumer.terminate() == 0


def numbers(run: Run, node: str) -> list[str]:
    """The numbers of the letters of a node, oldest first."""
    return [str(one["letter"]) for one in run("list", "--format", "json", "--node", node).objects()]


def put(kafka: str, *values: bytes, key: str, timestamp_ms: int | None = None) -> int:
    """Write values into the topic of dead letters by hand; the offset of the last."""

    async def putting() -> int:
        async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
            for value in values:
                stored = await producer.send_and_wait(
                    TOPIC, value, key.encode(), timestamp_ms=timestamp_ms
                )
        return int(stored.offset)

    return asyncio.run(putting())


def test_the_list_has_the_newest_last_and_counts_them_by_reason(rejected, run):
    said = run("list", "--node", RETYPED, "--limit", "2")

    assert said.code == 0
    _, second, third = numbers(run, RETYPED)
    head, *letters, empty, more, most_frequent, other = said.lines()
    assert head.split() == ["letter", "rejected", "(UTC)", "record", "size", "node", "reason"]
    assert [line.split()[0] for line in letters] == [second, third]
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert re.fullmatch(
        rf" *{second}  {today} [\d:]{{8}}  {FLOWS}/0/\d+ +[\d.]+ kB  {RETYPED}"
        r"  column bytes has type <f8, not <u8",
        letters[0],
    )
    assert (empty, more) == ("", "the newest 2 of 3; --limit shows more")
    assert most_frequent == (
        f"2 x column bytes has type <f8, not <u8 (topic {FLOWS}, node {RETYPED})"
    )
    assert other.startswith("1 x payload is no msgpack: ")


def test_letters_are_chosen_by_topic_node_and_reason(rejected, run):
    def found(*words: str) -> set[object]:
        return {one["node"] for one in run("list", "--format", "json", *words).objects()}

    assert found("--reason", "HAS TYPE <f8", "--topic", FLOWS) >= {RETYPED}
    assert found("--reason", "has type <f8", "--topic", "hookline.packet.v1") == set()
    assert found("--node", LARGE) == {LARGE}
    assert found("--node", REFUSED, "--reason", "clickhouse refuses its rows") == {REFUSED}


def test_where_no_letter_matches_it_is_said_and_no_failure(rejected, run):
    said = run("list", "--node", "nobody")
    machine = run("list", "--node", "nobody", "--format", "json")

    assert said == Said(0, "no dead letters match\n", "")
    assert machine == Said(0, "", "no dead letters match\n")


def test_programs_get_all_of_a_letter(rejected, run):
    [letter] = run("list", "--format", "json", "--node", REFUSED).objects()
    said = run("list", "--format", "csv", "--node", REFUSED).out
    [row] = csv.DictReader(io.StringIO(said))
    [group] = run("list", "--format", "json", "--node", REFUSED, "--by-reason").objects()

    assert letter["topic"] == FLOWS
    assert letter["replayed"] is None
    assert "Constraint `told`" in letter["reason"]
    assert row == {key: "" if value is None else str(value) for key, value in letter.items()}
    assert (group["letters"], group["replayed"], group["nodes"]) == (1, 0, [REFUSED])


def test_a_time_is_sought_not_read_from_the_beginning(rejected, kafka):
    put(kafka, b"early", key="letters-time")
    now_ms = int(time.time() * 1000) + 3_600_000
    later = put(kafka, b"late", key="letters-time", timestamp_ms=now_ms)

    async def spans(since_ms: int) -> list[range]:
        async with Topics(BrokerOptions(kafka=kafka).broker("test")) as topics:
            return list((await letter_spans(topics, since_ms=since_ms)).values())

    assert asyncio.run(spans(now_ms)) == [range(later, later + 1)]
    assert asyncio.run(spans(now_ms + 1)) == [range(later + 1, later + 1)]


@pytest.mark.parametrize("columns", [80, 200])
def test_on_a_terminal_a_letter_fits_its_width(rejected, kafka, columns):
    words = ["dead-letter", "list", "--kafka", kafka, "--node", REFUSED]
    # Else it wins over the terminal.
    unsized = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = " ".join([f"stty cols {columns};", sys.executable, "-m", "hookline", *words])
    shown = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        cwd=ROOT,
        env={**unsized, "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()

    assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in shown) == columns
    assert f"{FLOWS}/0/" in shown[1]
    assert REFUSED in shown[1]
    assert "clickhouse refuses its rows: Code: 469" in shown[1 if columns == 200 else 2]
    assert shown[1 if columns == 200 else 2].endswith("…")


def test_what_others_wrote_does_not_steer_the_terminal(rejected, run):
    [number] = numbers(run, HOSTILE)
    for said in (
        run("list", "--node", HOSTILE),
        run("list", "--node", HOSTILE, "--by-reason"),
        run("list", "--node", HOSTILE, "--format", "csv"),
        run("list", "--node", HOSTILE, "--format", "json"),
        run("show", number),
        run("replay", number),
    ):
        assert all(line.isprintable() for line in said.lines()), said.out
        assert "red" in said.out


def test_what_is_no_letter_is_listed_with_its_reason(rejected, kafka, run):
    number = put(kafka, b"\xc1\x1b[2J", key="letters-unreadable")

    listed = run("list", "--node", "letters-unreadable")
    shown = run("show", str(number))
    replayed = run("replay", str(number))

    assert "unreadable letter: it is no msgpack" in listed.lines()[1]
    assert listed.lines()[-1].startswith("1 x unreadable letter: it is no msgpack")
    assert shown.code == 0
    assert "|..[2J|" in shown.lines()[-1]
    assert replayed.code == 1
    assert replayed.out.startswith(f"{number} refused: unreadable letter: ")


def test_show_tells_what_is_wrong_with_a_record(rejected, run, tmp_path):
    number, _, cut_off = numbers(run, RETYPED)

    said = run("show", number, "--payload", str(tmp_path / "payload"))
    broken = run("show", cut_off).out

    told = dict(re.findall(r"^(\w+) {2,}(.+)$", said.out, re.MULTILINE))
    assert told["letter"] == number
    assert told["key"] == RETYPED
    assert told["reason"] == "column bytes has type <f8, not <u8"
    assert told["today"] == "still refused: column bytes has type <f8, not <u8"
    assert told["replayed"] == "no"
    assert (told["kind"], told["run"], told["rows"]) == ("flow", "r-1", "6")
    assert (told["columns"], told["wrong"], told["unknown"]) == ("34", "bytes", "as_number")
    assert "bytes           <f8      48  has type <f8, not <u8" in said.lines()
    assert "  00000000  89 a1 76 01 a4 6b 69 6e  64 a4 66 6c 6f 77 a4 6e  |..v..kind.flow.n|" in (
        said.lines()
    )
    payload = (tmp_path / "payload").read_bytes()
    assert msgpack.unpackb(payload)["cols"]["bytes"] == ["<f8", bytes(48)]
    [last] = re.findall(r"\nend +cannot be read further after column (\w+): it ends\n", broken)
    assert f"\n{last} " in broken


def test_show_finds_the_whole_of_a_large_record(rejected, run, tmp_path):
    [number] = numbers(run, LARGE)

    said = run("show", number, "--payload", str(tmp_path / "payload"))

    size = (tmp_path / "payload").stat().st_size
    assert size > 1_000_000
    assert (
        f"size      {size:,} bytes, 900,000 of them in the letter; kafka still has all"
        in said.lines()
    )
    assert "today     would be taken now" in said.lines()


def test_show_says_that_clickhouse_has_the_last_word(rejected, run):
    [number] = numbers(run, REFUSED)

    assert (
        "today     would be taken now by the decoder; clickhouse has the last word"
        in run("show", number).lines()
    )


@pytest.mark.parametrize("action", [("show",), ("replay",), ("replay", "--dry-run")])
def test_a_number_that_no_letter_has_is_one_line(rejected, run, action):
    said = run(*action, "123456789")

    assert (said.code, said.out) == (1, "")
    assert re.fullmatch(
        r"hookline dead-letter: there is no letter 123456789: hookline\.dead-letter holds"
        r" \d+ to \d+\n",
        said.err,
    )


def test_a_note_is_no_letter(rejected, kafka, run):
    number = put(kafka, encode_note(Note("replayed", ())), key="letters-note")

    for action in ("show", "replay"):
        said = run(action, str(number))
        assert (said.code, said.out) == (1, "")
        assert said.err.startswith(f"hookline dead-letter: there is no letter {number}: ")


def test_a_reader_that_has_seen_enough_is_no_failure_to_be_told(rejected, kafka):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hookline", "dead-letter", "list", "--kafka", kafka],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)

    assert (done.returncode, done.stderr) == (1, b"")


def a_letter(**changes: object) -> bytes:
    payload = wire.encode(a_batch(rows=1, node="letters-forged"))
    parts = {
        "reason": "forged",
        "topic": FLOWS,
        "partition": 0,
        "offset": 0,
        "timestamp_ms": 1234,
        "key": b"letters-forged",
        "payload": payload,
        "payload_bytes": len(payload),
    }
    return encode(Letter(**{**parts, **changes}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"topic": "payments"}, "topic payments is none of Hookline's"),
        ({"payload": None, "payload_bytes": 0}, "record has no value"),
        (
            {"payload": b"12345", "payload_bytes": 9, "offset": 1 << 40},
            "the letter holds 5 of 9 bytes, and kafka has deleted the record",
        ),
        (
            {"payload": b"12345", "payload_bytes": 9, "partition": 7},
            "the letter holds 5 of 9 bytes, and kafka has deleted the record",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_even_by_force(rejected, kafka, run, changes, reason):
    number = put(kafka, a_letter(**changes), key="letters-forged")

    said = run("replay", "--force", str(number))
    shown = run("show", str(number))

    assert said == Said(1, f"{number} refused: {reason}\n", "")
    assert shown.code == 0


def test_the_rest_of_a_letter_is_not_taken_from_another_record(rejected, kafka, run):
    _, end = asyncio.run(held(kafka, [FLOWS]))[TopicPartition(FLOWS, 0)]
    letter = a_letter(payload=b"12345", payload_bytes=9, offset=end - 1)
    number = put(kafka, letter, key="letters-forged")

    said = run("replay", "--force", str(number))

    reason = "the letter holds 5 of 9 bytes, and another record is in its place now"
    assert said == Said(1, f"{number} refused: {reason}\n", "")


def test_what_the_decoder_refuses_is_sent_by_force_alone(rejected, kafka, run):
    broken = {"payload": b"\xc1broken", "payload_bytes": 7, "key": b"letters-force"}
    number = put(kafka, a_letter(**broken), key="letters-force")

    refused = run("replay", str(number))
    forced = run("replay", "--force", str(number))
    again = run("replay", str(number))

    assert refused == Said(1, f"{number} refused: payload is no msgpack: FormatError\n", "")
    assert forced.code == 0
    assert re.fullmatch(rf"{number} replayed: {FLOWS}/0/\d+\n", forced.out)
    assert again.code == 1
    assert again.out.startswith(f"{number} refused: it was replayed 20")


def test_letters_are_replayed_after_a_fix_and_their_rows_are_there_once(rejected, kafka, run):
    stuck = {node: numbers(run, node) for node in (NEWER, LARGE, REFUSED)}
    with Engine(rejected / "db") as engine:
        assert engine.rows(counts()) == [(NEWER, 6, 1)]
        engine.execute(f"ALTER TABLE {DATABASE}.flows DROP CONSTRAINT told")

    trial = run("replay", "--all", "--node", NEWER, "--dry-run")
    assert trial == Said(0, "would replay 3 letters\n", "")
    assert run("list", "--node", NEWER, "--by-reason").out.count("replayed") == 0
    done = run("replay", "--all", "--node", NEWER)
    named = run("replay", stuck[LARGE][0], stuck[REFUSED][0])
    assert done == Said(0, "replayed 3 letters\n", "")
    assert named.code == 0
    assert named.out.count(f"replayed: {FLOWS}/0/") == 2

    asyncio.run(_consume(kafka, rejected))
    with Engine(rejected / "db") as engine:
        assert engine.rows(counts()) == [(LARGE, 8000, 1), (NEWER, 24, 4), (REFUSED, 6, 1)]

    # They are remembered, and still there.
    assert {node: numbers(run, node) for node in stuck} == stuck
    assert run("replay", "--all", "--node", NEWER) == Said(
        0, "replayed 0 letters\npassed over 3 letters that had been replayed before\n", ""
    )
    assert run("list", "--node", NEWER, "--by-reason").out.endswith("all replayed)\n")
    [line] = [line for line in run("show", stuck[LARGE][0]).lines() if line.startswith("replayed")]
    assert re.fullmatch(r"replayed  20[\d-]{8} [\d:]{8} UTC", line)


def counts() -> str:
    """Nodes of this module with their rows and batches, in the order of their names."""
    return (
        f"SELECT node, count(), uniqExact(run, seq) FROM {DATABASE}.flows"
        f" WHERE node IN ('{NEWER}', '{LARGE}', '{REFUSED}') GROUP BY node ORDER BY node"
    )


def test_the_table_says_what_the_list_says(rejected, kafka, run):
    listed = run("list", "--format", "json", "--node", RETYPED).objects()

    with Engine(rejected / "db") as engine:
        rows = engine.rows(
            "SELECT letter, topic, record_partition, record_offset, payload_bytes, reason,"
            " formatDateTime(time, '%Y-%m-%d %H:%i:%S'), toUnixTimestamp64Milli(record_time)"
            f" FROM {DATABASE}.dead_letters WHERE node = '{RETYPED}' ORDER BY letter"
        )
        [(reason, count)] = engine.rows(
            f"SELECT reason, count() FROM {DATABASE}.dead_letters"
            f" WHERE node = '{NEWER}' GROUP BY reason"
        )

    assert [row[:6] for row in rows] == [
        tuple(one[key] for key in (
            "letter", "topic", "record_partition", "record_offset", "payload_bytes", "reason",
        ))
        for one in listed
    ]  # fmt: skip
    assert [row[6] for row in rows] == [one["time"][:19].replace("T", " ") for one in listed]
    assert (reason, count) == ("column tunnel has value 5, which has no name", 3)
