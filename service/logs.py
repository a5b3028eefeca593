# SPDX-License-Identifier: Apache-2.0
"""Write log events to stderr: a time, a level, a phrase, then key=value fields."""

import logging
import time
from collections.abc import Callable

LEVELS = ("debug", "info", "warning", "error")

# One line in this time is enough to know that Kafka is away.
KAFKA_CLIENT_SECONDS = 10.0

# What every LogRecord has; the rest came in by `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class EventFormatter(logging.Formatter):
    """One line an event: `2026-01-31T12:00:00.000Z info rows inserted table=flows rows=20`."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        fields = "".join(
            f" {key}={_quoted(str(value))}"
            for key, value in vars(record).items()
            if key not in _OWN
        )
        return f"{self.formatTime(record)} {record.levelname.lower()} {record.message}{fields}"


def _quoted(text: str) -> str:
    """*text* as it is, or as a Python literal where it would break the line or its fields."""
    return text if text.isprintable() and text and not set(text) & {" ", "=", '"'} else repr(text)


class RateLimit(logging.Filter):
    """Lets one event pass in *seconds*, with the number of those that it held back.

    A client library says the same in many ways while its server is away.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._clock = clock
        self._next = float("-inf")
        self._held_back = 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        if now < self._next:
            self._held_back += 1
            return False
        self._next = now + self._seconds
        if self._held_back:
            record.held_back = self._held_back
        self._held_back = 0
        return True


def configure(level: str) -> None:
    """Send events of *level* and above to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(EventFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # The filter of a logger does not see what its children log, so the handler has it.
    handler.addFilter(_only("aiokafka", RateLimit(KAFKA_CLIENT_SECONDS)))
    # At debug it writes out its requests, and one of them holds the password.
    quiet_kafka_client(quiet=False)
    # What these say of a server that is away, we say in one line.
    for library in ("urllib3", "clickhouse_connect"):
        logging.getLogger(library).setLevel(logging.CRITICAL)


def _only(name: str, limit: RateLimit) -> Callable[[logging.LogRecord], bool]:
    """*limit* for the loggers below *name*."""

    def passes(record: logging.LogRecord) -> bool:
        return record.name.partition(".")[0] != name or limit.filter(record)

    return passes


def quiet_kafka_client(*, quiet: bool) -> None:
    """Hide what the Kafka client logs, while we report the same in one line ourselves.

    Its warnings are the most that it ever shows.
    """
    level = logging.CRITICAL if quiet else logging.WARNING
    logging.getLogger("aiokafka").setLevel(level)
