# SPDX-License-Identifier: Apache-2.0
"""What every test may ask for, and what all have."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.consumer import fetcher

from tests.lab.compilers import keeping_in

pytest_plugins = [
    "tests.lab.fixtures",
    "tests.services.broker",
    "tests.services.cluster",
    "tests.services.secure_broker",
]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long begin first, so that no worker is left with one while others idle.

    What a file starts tells: everything, services or programs of the kernel, nothing.
    """
    marks: dict[Path, set[str]] = {}
    for item in items:
        marks.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())
    items.sort(key=lambda item: _LONGEST.index(_kind(item.path, marks[item.path])))


_LONGEST = ("chaos", "both", "one", "neither")


def _kind(path: Path, marks: set[str]) -> str:
    if path.parent.name == "chaos":
        return "chaos"
    return ("neither", "one", "both")[len(marks & {"services", "kernel"})]


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
