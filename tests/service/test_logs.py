# SPDX-License-Identifier: Apache-2.0
import logging

from service.logs import EventFormatter


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
