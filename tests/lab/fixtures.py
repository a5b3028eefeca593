# SPDX-License-Identifier: Apache-2.0
"""Links for tests that ask for one, and what tests marked `kernel` need to run at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import agents, cgroups, links
from tests.lab.links import Link, link

_CLEANING = Path(tempfile.gettempdir()) / "hookline-test-cleaning.lock"
_TOOLS = ("ip", "tc", "dig", "ethtool", "ping", "iperf3", "tcpdump", "tshark", "setpriv")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if "kernel" not in item.keywords or not (reason := _what_is_missing()):
        return
    if os.environ.get("REQUIRE_KERNEL"):
        pytest.fail(reason)
    pytest.skip(reason)


def _what_is_missing() -> str:
    if os.geteuid() != 0:
        return "loading eBPF programs needs root; run the tests with sudo"
    if not Path("/sys/fs/bpf").is_dir():
        return "this kernel has no eBPF; run the tests on a host or in a virtual machine"
    missing = [tool for tool in _TOOLS if not shutil.which(tool)]
    return f"{missing[0]} is missing; install it" if missing else ""


@pytest.fixture(scope="session")
def lab() -> None:
    """A machine without what killed runs have left."""
    with _CLEANING.open("w") as lock:
        # Workers begin at once, and each would trip over what another has just removed.
        fcntl.flock(lock, fcntl.LOCK_EX)
        links.remove_leftovers()
        agents.remove_leftovers()
        cgroups.remove_leftovers()


@pytest.fixture
def wire(lab: None) -> Iterator[Link]:
    """A silent IPv4 link without offloads: every packet is what a wire would carry."""
    with link() as made:
        yield made


@pytest.fixture(scope="session")
def dual_wire(lab: None) -> Iterator[Link]:
    """The same with IPv6 as well, shared, since it takes seconds to fall silent."""
    with link(ipv6=True) as made:
        yield made
