# SPDX-License-Identifier: Apache-2.0
"""`hookline agent --detach` tells what agents have left, and removes it."""

import subprocess
import sys

import pytest

from agent.plan import root_of
from tests.lab.agents import ROOT, SPOOLS, agent
from tests.lab.links import HERE
from tests.lab.published import read_published
from tests.lab.succession import successors
from tests.lab.traffic import udp_burst

pytestmark = [pytest.mark.kernel, pytest.mark.services]


def test_detach_tells_what_was_counted_and_removes_everything(kafka, wire):
    before = wire.quiet()
    flags = ("--interface", wire.near.name, "--tc", "clsact", "--interval", "60")
    with successors(*flags, kafka=kafka) as line:
        udp_burst(wire, flows=20, packets=100)
        line.latest.kill()
        udp_burst(wire, flows=20, packets=50)
        grown = wire.quiet() - before
        done = detach(line.name, kafka)
        again = detach(line.name, kafka)
        filters = HERE.run("tc", "qdisc", "show", "dev", wire.near.name)
        published = read_published(kafka, line.name)

    assert done == (0, f"agent {line.name}: detached\n")
    assert again == (0, f"agent {line.name}: nothing is attached\n")
    assert "clsact" not in filters
    assert not root_of(line.name).exists()
    assert published.sums("egress") == grown.egress
    assert published.column("delivery", "is_last")[-1] == 1


def test_an_agent_that_runs_is_not_detached_behind_its_back(wire):
    with agent("--interface", wire.near.name) as observed:
        code, _ = detach(observed.name, "127.0.0.1:9")

        assert code == 1
        assert observed.pins.exists()


def detach(name: str, kafka: str) -> tuple[int, str]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "agent", "--name", name, "--node", name),
            *("--detach", "--kafka", kafka, "--spool", str(SPOOLS)),
        ],
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.returncode, done.stdout
