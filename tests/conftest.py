# SPDX-License-Identifier: Apache-2.0
"""What every test may ask for, and what all have."""

import os
from collections.abc import Iterator

import pytest
from aiokafka.consumer import fetcher

from tests.lab.compilers import keeping_in

pytest_plugins = [
    "tests.lab.fixtures",
    "tests.services.broker",
    "tests.services.cluster",
    "tests.services.secure_broker",
]


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Programs are compiled once in a run, and none that an earlier run has left are loaded."""
    run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        run = run.parent  # what the workers of a run have in common
    (run / "compiled").mkdir(exist_ok=True)
    with keeping_in(run / "compiled"):
        yield


@pytest.fixture(autouse=True)
def client_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's own readers use it as it is, whatever a consumer of another test has put into it."""
    monkeypatch.setattr(fetcher, "MemoryRecords", fetcher.MemoryRecords)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What `make chaos` asks for."""
    chaos = parser.getgroup("chaos")
    chaos.addoption("--chaos-events", type=int, default=10, help="how many (default: %(default)s)")
    chaos.addoption("--chaos-seed", type=int, help="which ones: a number that a run has printed")
