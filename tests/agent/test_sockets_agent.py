# SPDX-License-Identifier: Apache-2.0
"""An agent publishes sockets beside flows, or says why it does not."""

import sys
from pathlib import Path

import pytest

from schemas.socket import EVENTS, ROLES
from tests.lab.agents import Agent, agent
from tests.lab.cgroups import a_cgroup
from tests.lab.published import read_published, text_from_address
from tests.lab.talkers import talk, talking

pytestmark = [pytest.mark.kernel, pytest.mark.services]


def test_an_agent_publishes_what_became_of_sockets(kafka, wire):
    with a_cgroup("watched") as group:
        flags = ("--interface", wire.near.name, "--sockets=yes", f"--cgroup={group.directory}")
        with agent(*flags, kafka=kafka) as observed:
            with talking(group, "serve", wire.near.ipv4, 1) as (served, _):
                port = served["port"]
                far = wire.far.namespace
                asked = talk(group, "ask", wire.near.ipv4, port, 3, 1000, namespace=far)
            assert observed.stop() == 0
            assert "observing sockets" in observed.said
        number = group.number
    published = read_published(kafka, observed.name)

    def column(name: str) -> list:
        return published.column("socket", name).tolist()

    rows = zip(*(column(name) for name in ("event", "role", "pid", "command")), strict=True)
    closed = [
        (pid, command) for *kind, pid, command in rows if kind == [EVENTS["close"], ROLES["client"]]
    ]
    assert closed == [(asked["client"], Path(sys.executable).name)] * 3
    assert set(column("cgroup_id")) == {number}
    assert {text_from_address(one) for one in published.column("socket", "local_addr")} == {
        wire.near.ipv4,
        wire.far.ipv4,
    }
    assert (published.column("socket", "time") >= published.column("socket", "start")).all()
    assert not observed.pins.exists()


def test_a_folder_that_is_no_cgroup_is_refused(wire, tmp_path):
    started = Agent("--interface", wire.near.name, "--sockets=yes", f"--cgroup={tmp_path}")

    assert started.wait() == 1
    assert started.said == (
        f"agent: {tmp_path} is no folder of cgroup v2; name one with --cgroup\n"
    )
    assert not started.pins.exists()


def test_without_sockets_nothing_of_them_is_loaded(wire):
    with agent("--interface", wire.near.name, "--sockets=no") as observed:
        pinned = {path.name for path in observed.pins.rglob("*")}
        observed.stop()

    assert "flow_slots" in pinned
    assert not pinned & {"sockets", "socket_totals", "hook_tcp"}
