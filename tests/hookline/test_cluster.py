# SPDX-License-Identifier: Apache-2.0
"""Commands find Kafka: where they are told, or where `hookline up` runs."""

import argparse
import asyncio
import json
import os
from pathlib import Path

import pytest

from hookline import cluster
from hookline.cli import main
from hookline.kafka import Kafka, free_port
from hookline.topics import Topics
from schemas.dead_letter import TOPIC
from service.broker import Broker, BrokerError, BrokerOptions, BrokerUnavailable
from service.options import ConfigError
from tests.consumer.process import create_topics, publish_payloads


def chosen(*words: str, environ: dict[str, str] | None = None) -> Broker:
    parser = argparse.ArgumentParser()
    cluster.add_arguments(parser)
    args = parser.parse_args(words)
    return cluster.chosen_broker(args, environ or {}, table="dead-letter", client_id="test")


def up_at(directory: Path, kafka: str) -> str:
    """A data directory as a running `hookline up` leaves it."""
    here = {"pid": os.getpid(), "http": "http://127.0.0.1:1", "kafka": kafka}
    (directory / "up.json").write_text(json.dumps(here))
    return str(directory)


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A default data directory of our own."""
    directory = tmp_path / "default"
    directory.mkdir()
    monkeypatch.setattr(cluster, "DEFAULT_DATA", directory)
    return directory


def test_a_flag_wins_over_the_environment_over_the_file_over_what_runs(nothing_runs, tmp_path):
    assert chosen().addresses == "127.0.0.1:9092"
    up_at(nothing_runs, "127.0.0.1:1")
    assert chosen().addresses == "127.0.0.1:1"
    file = tmp_path / "hookline.toml"
    file.write_text(
        'kafka = "b:2"\n[dead-letter]\nkafka_user = "me"\nkafka_security = "sasl_ssl"\n[consumer]\nmax_rows = 1\n'
    )
    assert chosen("--config", str(file)).addresses == "b:2"
    assert chosen("--config", str(file)).user == "me"
    environ = {"HOOKLINE_CONFIG": str(file), "HOOKLINE_KAFKA": "c:3"}
    assert chosen(environ=environ).addresses == "c:3"
    assert chosen("--kafka", "d:4", environ=environ).addresses == "d:4"


def test_a_data_directory_means_its_own_broker_whatever_the_environment_says(tmp_path):
    environ = {"HOOKLINE_KAFKA": "c:3", "HOOKLINE_KAFKA_SECURITY": "ssl"}

    broker = chosen("--data", up_at(tmp_path, "127.0.0.1:5"), environ=environ)

    assert (broker.addresses, broker.security) == ("127.0.0.1:5", "plaintext")


def test_where_nothing_can_be_meant_it_is_said(tmp_path):
    with pytest.raises(BrokerUnavailable, match="no hookline up runs on .*: start it, or give"):
        chosen("--data", str(tmp_path))
    with pytest.raises(BrokerUnavailable, match="is of an older version"):
        chosen("--data", up_at(tmp_path, ""))
    with pytest.raises(ConfigError, match="--kafka and --data name two clusters"):
        chosen("--data", str(tmp_path), "--kafka", "a:1")
    with pytest.raises(ConfigError, match="write HOST:PORT"):
        chosen("--kafka", "nowhere")


@pytest.mark.services
async def test_letters_of_several_partitions_are_called_by_both_numbers(tmp_path, capsys):
    async def said(*words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, ["dead-letter", *words])
        return code, *capsys.readouterr()

    async with Kafka(tmp_path / "kafka", partitions=2) as kafka:
        where = ("--data", up_at(tmp_path, kafka.bootstrap))
        assert await said("list", *where) == (0, "no dead letters\n", "")
        assert await said("show", "0", *where) == (
            1,
            "",
            "hookline dead-letter: there is no letter 0: there are no dead letters\n",
        )
        await create_topics(kafka.bootstrap, [TOPIC], partitions=2)
        keys = [f"node-{number}" for number in range(8)]
        await publish_payloads(kafka.bootstrap, *((TOPIC, key, b"\xc1") for key in keys))

        _, listed, _ = await said("list", *where)
        numbers = [line.split()[0] for line in listed.splitlines()[1:9]]
        assert {number.partition("/")[0] for number in numbers} == {"0", "1"}
        assert (await said("show", numbers[0], *where))[1].startswith(f"letter    {numbers[0]}\n")
        code, _, error = await said("show", "0", *where)
        assert code == 2
        assert error.endswith(
            "0 may be in each of 2 partitions: write PARTITION/NUMBER, as in 0/0\n"
        )
        code, _, error = await said("show", "7/0", *where)
        assert code == 1
        assert "there is no letter 7/0: hookline.dead-letter holds none there" in error


@pytest.mark.services
async def test_what_does_not_come_ends_the_reading(kafka, monkeypatch):
    monkeypatch.setattr("hookline.topics._SILENCE_S", 0.5)
    await publish_payloads(kafka, ("one-record", "key", b"1"))
    async with Topics(BrokerOptions(kafka=kafka).broker("test")) as topics:
        [partition] = await topics.partitions(["one-record", "no-such-topic"])
        assert await topics.spans([partition]) == {partition: range(1)}
        with pytest.raises(BrokerError, match=r"kafka has not answered for 0\.5 s"):
            _ = [some async for some in topics.records({partition: range(2)})]


def test_a_broker_that_is_away_is_one_line(capsys):
    address = f"127.0.0.1:{free_port()}"

    code = main(["dead-letter", "list", "--kafka", address])

    assert code == 1
    assert capsys.readouterr().err == (
        f"hookline dead-letter: kafka at {address}: no broker answers\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("list", "--kafka", "nowhere"),
        ("replay",),
        ("replay", "17", "--all"),
        ("replay", "17", "--node", "web-1"),
        ("list", "--kafka", "a:1", "--data", "."),
        ("list", "--kafka", "a:1", "--kafka-security", "sasl_ssl"),
    ],
)
def test_bad_usage_is_told_before_anything_is_asked(words, capsys):
    assert main(["dead-letter", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("list", "--limit", "0"), "argument --limit: '0' is out of its limits: write 1 to 100000"),
        (("list", "--since", "long"), "argument --since: 'long' is no time"),
        (("show", "x"), "argument NUMBER: 'x' is no number of a letter: write 17, or 2/17"),
        (("replay", "17", "-1"), "argument NUMBER: '-1' is no number of a letter"),
    ],
)
def test_what_people_type_wrong_is_named(words, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["dead-letter", *words])

    assert ended.value.code == 2
    assert told in capsys.readouterr().err
