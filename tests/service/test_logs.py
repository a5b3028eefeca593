# SPDX-License-Identifier: Apache-2.0
import logging

from service.logs import EventFormatter, RateLimit, configure


def line(phrase: str, **fields: object) -> str:
    record = logging.makeLogRecord(
        {
            "name": "consumer",
            "levelname": "INFO",
            "msg": phrase,
            "created": 0.0,
            "msecs": 0.0,
            **fields,
        }
    )
    return EventFormatter().format(record)


def test_an_event_is_a_time_a_level_a_phrase_and_its_fields():
    assert line("rows inserted", table="flows", rows=20) == (
        "1970-01-01T00:00:00.000Z info rows inserted table=flows rows=20"
    )


def test_a_field_that_came_from_outside_cannot_forge_a_line_or_a_field():
    assert line("rejected", reason="bad\n1970 error x=1").endswith(r"reason='bad\n1970 error x=1'")
    assert line("rejected", reason="").endswith("reason=''")


def test_one_line_passes_in_its_time_and_tells_how_many_did_not():
    now = [100.0]
    limit = RateLimit(10.0, clock=lambda: now[0])

    passed = []
    for at in (100.0, 100.1, 109.9, 110.0, 111.0):
        now[0] = at
        record = logging.makeLogRecord({"msg": "away"})
        passed.append((limit.filter(record), getattr(record, "held_back", 0)))

    assert passed == [(True, 0), (False, 0), (False, 0), (True, 2), (False, 0)]


def test_only_the_kafka_client_is_limited(capsys):
    configure("info")

    for name in ("aiokafka.cluster", "aiokafka.conn", "agent.publisher", "agent.publisher"):
        logging.getLogger(name).warning("away")

    assert capsys.readouterr().err.count("away") == 3
