# SPDX-License-Identifier: Apache-2.0
"""From an agent's publisher through a broker that asks who we are to the consumer and its tables.

The rights are those of the guide, given by its own commands.
"""

import asyncio
import logging

import pytest

from consumer.alerts.config import Config as AlertConfig
from consumer.alerts.watch import topics
from hookline.broker_files import LOOPBACK
from schemas.alert import ALERT
from schemas.catalogue import RECORDS
from schemas.clickhouse import DATABASE
from schemas.rejection import REJECTION
from schemas.rules.signed import TOPIC
from service.broker import BrokerUnavailable
from service.options import environment_name
from service.reach import reach
from tests.consumer.engine import Engine
from tests.consumer.process import DEADLINE_S, POLL_S, Consumer, has_read_everything
from tests.lab.waiting import wait_until
from tests.schemas.batches import a_batch
from tests.services.acls import rights
from tests.services.publishing import publishing
from tests.services.secure_broker import broker_of

pytestmark = pytest.mark.services

# Those who consume write the last two kinds themselves.
OF_AGENTS = [record for record in RECORDS if record not in (REJECTION, ALERT)]
WAYS_IN = ("TLS", "PASSWORD", "CERTIFICATE")


async def until(is_so, what):
    await asyncio.to_thread(wait_until, is_so, what)


def consumer(directory, options, *flags):
    """A consumer that is given *options*, what is secret among them by its environment."""
    given = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in options.items()
        if name != "kafka_password"
    ]
    secret = {
        environment_name(name): value for name, value in options.items() if name == "kafka_password"
    }
    return Consumer(directory, *given, *flags, environment=secret)


async def complaint(options):
    with pytest.raises(BrokerUnavailable) as refused:
        await reach(broker_of(options))
    text = str(refused.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("way", WAYS_IN)
async def test_what_an_agent_publishes_is_in_the_tables_whatever_the_broker_asks(
    secure_kafka, tmp_path, way
):
    node = f"node-by-{way.lower()}"
    async with publishing(broker_of(secure_kafka.options(way))) as agent:
        for record in OF_AGENTS:
            agent.add(a_batch(record.kind, rows=40, node=node))
        await until(lambda: agent.published_batches == len(OF_AGENTS), "acknowledgements")

    # The rights name the group, so all three ways read in the same one.
    database = tmp_path / "db"
    with consumer(
        tmp_path,
        secure_kafka.options(way, "consumer"),
        f"--clickhouse=chdb://{database}",
        "--max-age=0.2",
    ) as running:
        await running.until_ready()
        topics = [record.topic for record in RECORDS]
        async with asyncio.timeout(DEADLINE_S):
            while not await has_read_everything(secure_kafka.plain, "hookline-consumer", topics):
                assert running.process.poll() is None, running.log
                await asyncio.sleep(POLL_S)
        assert await running.terminate() == 0

    with Engine(database) as engine:
        for record in OF_AGENTS:
            count = f"SELECT count() FROM {DATABASE}.{record.table} WHERE node = '{node}'"
            assert engine.value(count) == 40


def test_the_guide_gives_rights_to_every_topic():
    of_agent = [one for one in rights() if one.principal == "User:agent"]
    written = {one.name for one in of_agent if one.operation == "Write"}
    obeyed = {one.name for one in of_agent if one.operation == "Read"}
    read = {
        one.name
        for one in rights()
        if one.principal == "User:consumer" and (one.operation, one.resource) == ("Read", "--topic")
    }

    assert written == {record.topic for record in OF_AGENTS}
    assert obeyed == {TOPIC}
    assert read == {record.topic for record in RECORDS}


def test_the_guide_gives_the_alerting_service_what_it_needs():
    given = {
        (one.operation, one.resource, one.name) for one in rights() if one.principal == "User:alert"
    }

    read = {("Read", "--topic", topic) for topic in topics(AlertConfig().detectors())}
    group = ("Read", "--group", AlertConfig().group)
    assert given == {*read, group, ("Write", "--topic", ALERT.topic)}


async def test_an_agent_may_write_records_and_no_dead_letters(secure_kafka):
    from aiokafka import AIOKafkaProducer
    from aiokafka.errors import TopicAuthorizationFailedError

    connection = broker_of(secure_kafka.options("PASSWORD")).connection()
    producer = AIOKafkaProducer(**connection)
    await producer.start()
    try:
        await producer.send_and_wait("hookline.flow.v1", b"of an agent")
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait("hookline.dead-letter", b"of an agent")
    finally:
        await producer.stop()


async def test_a_wrong_password_is_told(secure_kafka):
    options = secure_kafka.options("PASSWORD") | {"kafka_password": "guessed"}

    said = await complaint(options)

    assert said == (
        "it refuses user 'agent' by SCRAM-SHA-512: unknown there, or with another password;"
        " check kafka_user and kafka_password_file"
    )


async def test_an_authority_that_nobody_named_is_told(secure_kafka):
    foreign = str(secure_kafka.foreign.own.pem)

    said = await complaint(secure_kafka.options("TLS") | {"kafka_ca_file": foreign})

    assert said.startswith(f"its certificate is signed by none of {foreign} (")
    assert said.endswith("; name its authority's in kafka_ca_file")


async def test_a_host_name_that_the_certificate_lacks_is_told(secure_kafka):
    said = await complaint(secure_kafka.options("ELSEWHERE"))

    assert "certificate is not valid for '127.0.0.1'" in said
    assert said.endswith("; write in kafka a name that is in its certificate")


async def test_a_certificate_that_is_missing_is_told(secure_kafka):
    options = secure_kafka.options("TLS") | {"kafka": secure_kafka.address("CERTIFICATE")}

    said = await complaint(options)

    assert said.startswith("it wants a certificate of ours (")
    assert said.endswith("; name one in kafka_certificate_file")


@pytest.mark.parametrize("what", ["foreign", "expired"])
async def test_a_certificate_that_is_refused_is_told(secure_kafka, what):
    of_nobody = secure_kafka.foreign.signed("agent")
    of_yesterday = secure_kafka.ours.signed("agent", days=0)
    certificate = {"foreign": of_nobody, "expired": of_yesterday}[what]
    options = secure_kafka.options("CERTIFICATE") | {
        "kafka_certificate_file": str(certificate.pem),
        "kafka_key_file": str(certificate.key),
    }
    # Times in certificates are whole seconds.
    await asyncio.sleep(1 if what == "expired" else 0)

    said = await complaint(options)

    assert said.startswith(f"it refuses our certificate {certificate.pem} (")
    assert "expired, or signed by an authority that it does not trust" in said


@pytest.mark.parametrize(
    ("way", "door", "said"),
    [
        ("PLAINTEXT", "TLS", "perhaps it wants TLS: check its port, or kafka_security"),
        ("TLS", "PLAINTEXT", "it does not speak TLS there; check its port, or kafka_security"),
        ("TLS", "PASSWORD", "perhaps it wants a password: check its port, or kafka_security"),
        ("PASSWORD", "TLS", "it takes no password there; check its port, or kafka_security"),
    ],
)
async def test_another_door_than_the_one_meant_is_told(secure_kafka, way, door, said):
    options = {} if way == "PLAINTEXT" else secure_kafka.options(way)

    assert said in await complaint(options | {"kafka": secure_kafka.address(door)})


async def test_several_brokers_are_told_apart_where_they_differ(secure_kafka):
    nowhere = f"{LOOPBACK}:9"
    options = secure_kafka.options("ELSEWHERE")
    options["kafka"] += f",{nowhere},{LOOPBACK}:10"

    said = await complaint(options)

    assert said.startswith(f"{secure_kafka.address('ELSEWHERE')}: IP address mismatch")
    assert said.endswith(f"; {nowhere}, {LOOPBACK}:10: no broker answers")


async def test_an_agent_goes_on_trying_and_keeps_its_flows(secure_kafka, caplog):
    wrong = secure_kafka.options("PASSWORD") | {"kafka_password": "guessed"}

    with caplog.at_level(logging.WARNING, "agent.publisher"):
        async with publishing(broker_of(wrong)) as agent:
            agent.add(a_batch(node="patient"))
            await until(lambda: told(caplog), "a warning")

            assert agent.waiting_batches == 1
            agent.publisher.raise_if_failed()
    assert "it refuses user 'agent'" in told(caplog)[0]


def told(caplog):
    return [record.reason for record in caplog.records if record.name == "agent.publisher"]


async def test_an_agent_tells_a_new_reason_and_no_reason_twice(monkeypatch, caplog):
    reasons = iter(["no broker answers", "no broker answers", "it refuses user 'agent'"])
    monkeypatch.setattr("agent.publisher._RETRY_SECONDS", (0.0,))

    async def refuse(_):
        raise BrokerUnavailable(next(reasons, "it refuses user 'agent'"))

    monkeypatch.setattr("agent.publisher.reach", refuse)
    with caplog.at_level(logging.WARNING, "agent.publisher"):
        async with publishing(broker_of({})):
            await until(lambda: next(reasons, "over") == "over", "further tries")

    assert told(caplog) == ["no broker answers", "it refuses user 'agent'"]


async def test_a_consumer_that_is_let_in_nowhere_ends_with_the_reason(secure_kafka, tmp_path):
    wrong = secure_kafka.options("PASSWORD", "consumer") | {"kafka_password": "guessed"}

    with consumer(
        tmp_path, wrong, f"--clickhouse=chdb://{tmp_path / 'db'}", "--start-timeout=5"
    ) as refused:
        assert await refused.ended() == 1

    last = refused.log.splitlines()[-1]
    assert last.startswith(f"consumer: kafka at {wrong['kafka']} is not available after 5 s: ")
    assert "it refuses user 'consumer' by SCRAM-SHA-512" in last
    assert "Traceback" not in refused.log
