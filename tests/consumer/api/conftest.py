# SPDX-License-Identifier: Apache-2.0
"""A served history with 1,000 flows, and a plain way to ask it; a file that it must not tell of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.services.served_history import ServedHistory, served_history

FLOWS = 1000
CANARY = "canary-7d1f0c"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def code(self) -> str | None:
        return self.headers["X-ClickHouse-Exception-Code"]


Ask = Callable[..., Reply]


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHistory]:
    with served_history(tmp_path_factory.mktemp("history")) as served:
        assert served.tell(f"rows {FLOWS}") == "done"
        yield served


@pytest.fixture
def ask(history: ServedHistory) -> Iterator[Ask]:
    """Ask with `ask(sql, headers=..., setting=...)`, over one connection."""
    connection = HTTPConnection("127.0.0.1", history.port, timeout=30)

    def ask(sql: str | bytes, headers: dict[str, str] | None = None, **url: Any) -> Reply:
        body = sql.encode() if isinstance(sql, str) else sql
        connection.request("POST", "/?" + urlencode(url), body, headers or {})
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())

    yield ask
    connection.close()


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that the server could read for anybody."""
    path = tmp_path / "canary.txt"
    path.write_text(CANARY + "\n")
    return path
