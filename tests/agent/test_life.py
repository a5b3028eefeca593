# SPDX-License-Identifier: Apache-2.0
"""How an agent starts, what it refuses, what it survives, and that it leaves nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hookline.kafka import Kafka, free_port
from schemas.fields import DIRECTIONS
from tests.lab.agents import ROOT, Agent, agent, remove_pins
from tests.lab.capture import capturing, frames_of
from tests.lab.compilers import keeping_in
from tests.lab.foreign import foreign_tc_program, foreign_xdp_program
from tests.lab.links import HERE, End, link
from tests.lab.published import read_published
from tests.lab.traffic import ping, udp_burst
from tests.lab.tun import tun
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.kernel


def refused(*flags: str) -> tuple[int, str]:
    """The exit code of an agent that does not start, and the one line that it says."""
    started = Agent(*flags)
    code = started.wait()
    (line,) = started.lines
    return code, line


def programs_on(end: End) -> str:
    """Every XDP program, tc filter and qdisc on *end*, as iproute2 knows them."""
    return "".join(
        HERE.run(*command, "dev", end.name)
        for command in (
            ("ip", "-d", "link", "show"),
            ("tc", "qdisc", "show"),
        )
    ) + "".join(
        HERE.run("tc", "filter", "show", "dev", end.name, direction)
        for direction in ("ingress", "egress")
    )


def links_of(started: Agent) -> list[str]:
    return sorted(path.name for path in (started.pins / "links").glob("*"))


def test_an_unknown_interface_is_bad_usage():
    code, line = refused("--interface", "nosuch0")

    assert code == 2
    assert line.startswith("agent: no interface matches 'nosuch0'; there are: lo")


def test_an_interface_that_is_down_is_bad_usage_and_the_remedy_is_named(wire):
    HERE.run("ip", "link", "set", wire.near.name, "down")
    code, line = refused("--interface", wire.near.name)

    assert code == 2
    assert line == (
        f"agent: interface {wire.near.name} is down; bring it up: ip link set {wire.near.name} up\n"
    )


def test_somebody_without_the_rights_is_told_how_to_get_them():
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-m", "agent"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("agent: ")
    assert "sudo" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("hook", ["xdp", "xdp-generic", "auto"])
def test_beside_a_foreign_xdp_program_an_interface_is_observed_at_tc_with_a_warning(wire, hook):
    flags = ("--interface", wire.near.name, "--hook", hook, "--stop-timeout", "0.1")
    with foreign_xdp_program(wire.near) as foreign, agent(*flags) as observed:
        assert links_of(observed) == sorted(
            f"{direction}-{wire.near.ifindex}" for direction in ("ingress", "egress")
        )
        observed.stop()

        assert foreign.is_attached
    assert "ingress=tcx" in observed.said
    if hook != "auto":
        assert f"{wire.near.name} has an XDP program already (id " in observed.said


def test_of_two_interfaces_neither_is_observed_when_one_cannot_be(lab):
    with link() as free, tun() as cannot:
        # A tunnel has no native XDP.
        names = ("--interface", free.near.name, "--interface", cannot.name)
        started = Agent(*names, "--hook", "xdp")

        assert started.wait() == 1
        assert f"{cannot.name} does not support native XDP" in started.lines[-1]
        assert "xdp" not in programs_on(free.near)
        assert not started.pins.exists()


@pytest.mark.parametrize(
    "flags", [("--tc", "tcx"), ("--tc", "clsact"), ("--hook", "xdp")], ids=" ".join
)
def test_an_agent_that_is_stopped_leaves_nothing(wire, flags):
    before = programs_on(wire.near)
    with agent("--interface", wire.near.name, "--stop-timeout", "0.1", *flags) as observed:
        ping(wire)
        # It could publish nothing, which waits for the next one.
        assert observed.stop() == 0

    assert "rows wait in the spool for the next start rows=" in observed.said
    assert programs_on(wire.near) == before
    assert not observed.pins.exists()
    # The folder that agents share stays only while another has pins in it.
    shared = observed.pins.parent
    assert not shared.exists() or any(shared.iterdir())


def test_a_foreign_filter_and_its_qdisc_stay(wire):
    with foreign_tc_program(wire.near, "clsact"):
        before = programs_on(wire.near)
        with agent(
            "--interface", wire.near.name, "--tc", "clsact", "--stop-timeout", "0.1"
        ) as observed:
            assert programs_on(wire.near) != before
            observed.stop()

        assert programs_on(wire.near) == before


def test_a_qdisc_that_somebody_uses_meanwhile_stays(wire):
    flags = ("--interface", wire.near.name, "--tc", "clsact", "--stop-timeout", "0.1")
    with agent(*flags) as maker, agent(*flags) as user:
        maker.stop()
        left = programs_on(wire.near)
        user.stop()

    assert left.count("hookline_ingress") == left.count("hookline_egress") == 1


def test_a_second_agent_of_the_same_name_is_refused(wire):
    with agent("--interface", wire.near.name) as first:
        second = Agent("--interface", wire.near.name, name=first.name)

        assert second.wait() == 1
        assert second.said == (
            f"agent: an agent named {first.name!r} runs already; stop it, or choose another --name\n"
        )
        assert links_of(first)


def test_taking_over_from_a_killed_agent_spares_other_agents(wire):
    flags = ("--interface", wire.near.name, "--tc", "clsact", "--stop-timeout", "0.1")
    with agent(*flags) as spared:
        killed = Agent(*flags).until_ready()
        killed.kill()
        with agent(*flags, name=killed.name) as following:
            following.stop()
        left = programs_on(wire.near)
        spared.stop()

    assert left.count("hookline_ingress") == left.count("hookline_egress") == 1


@pytest.mark.services
def test_an_interface_that_vanishes_is_told_once_and_nothing_is_lost(kafka, lab):
    with link() as stays:
        with link() as vanishes:
            names = ("--interface", stays.near.name, "--interface", vanishes.near.name)
            with agent(*names, "--interval", "0.1", kafka=kafka) as observed:
                udp_burst(vanishes, flows=20, packets=300)
                grown = vanishes.quiet().egress
                HERE.run("ip", "link", "del", vanishes.near.name)
                observed.until_it_says("interface is gone")
                before = stays.quiet()
                ping(stays)
                still_grown = (stays.quiet() - before).ingress
                assert observed.stop() == 0
        published = read_published(kafka, observed.name)

    assert observed.said.count("interface is gone") == 1
    assert published.sums("egress", interface=vanishes.near.name) == grown
    assert published.sums("ingress", interface=stays.near.name) == still_grown
    assert not observed.pins.exists()


@pytest.mark.services
def test_a_broker_that_comes_late_gets_everything(wire, tmp_path):
    port = free_port()
    before = wire.quiet()
    with agent("--interface", wire.near.name, kafka=f"127.0.0.1:{port}") as observed:
        udp_burst(wire, flows=20, packets=300)
        grown = wire.quiet() - before
        observed.until_it_says("kafka is not reachable")
        published = asyncio.run(stop_once_kafka_runs(observed, tmp_path, port))

    assert published.sums("egress") == grown.egress
    sequence = [batch.seq for batch in published.batches["ledger"]]
    assert sequence == list(range(len(sequence)))


async def stop_once_kafka_runs(observed: Agent, directory: Path, port: int):
    async with Kafka(directory, port=port) as kafka:
        await asyncio.to_thread(observed.until_it_says, "kafka is reachable")
        assert await asyncio.to_thread(observed.stop) == 0
        return await asyncio.to_thread(read_published, kafka.bootstrap, observed.name)


@pytest.mark.services
def test_headers_of_first_packets_are_those_that_the_wire_carried(kafka, wire, tmp_path):
    with agent("--interface", wire.near.name, "--sample", "0", kafka=kafka) as observed:
        with capturing(wire.far, tmp_path / "far.pcap", direction="in") as capture:
            udp_burst(wire, flows=200, packets=1000, payload=bytes(range(100)))
            wire.quiet()
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)
    is_sent = published.column("packet", "direction") == DIRECTIONS["egress"]
    headers = published.column("packet", "header")[is_sent]
    lengths = published.column("packet", "header_bytes")[is_sent]
    captured = [header.tobytes()[:size] for header, size in zip(headers, lengths, strict=True)]

    # A flow is new to each CPU that sees it, and the kernel may move the sender.
    frames = frames_of(capture)
    firsts = {frame[36:38]: frame[:96] for frame in reversed(frames)}
    assert len(firsts) == 200
    assert set(captured) >= set(firsts.values())
    assert set(captured) <= {frame[:96] for frame in frames}
    assert len(captured) <= 400


@pytest.mark.services
def test_rows_of_a_busy_flow_follow_one_another_in_time(kafka, wire):
    with agent("--interface", wire.near.name, "--interval", "0.2", kafka=kafka) as observed:
        wire.far.namespace.run("ping", "-q", "-f", "-w", "2", wire.near.ipv4)
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)
    starts, ends = published.column("flow", "time"), published.column("flow", "end")
    longest_s = (ends - starts).max() / 1e9

    # One row an interval for each direction and CPU, none of which tells of the others' time.
    assert len(starts) >= 10
    assert 0 < longest_s < 1.0


def test_a_certificate_that_cannot_be_read_is_told_before_anything_is_attached(wire, tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    security = ("--kafka-security", "ssl", "--kafka-ca-file", str(tmp_path / "ca.pem"))
    started = Agent("--interface", wire.near.name, *security)

    assert started.wait() == 2
    assert len(started.lines) == 1
    assert started.said.startswith(f"agent: kafka_ca_file {tmp_path / 'ca.pem'} holds no")
    assert not started.pins.exists()


def test_a_loader_ends_with_its_agent(wire, tmp_path):
    with keeping_in(tmp_path / "nothing yet"):
        started = Agent("--interface", wire.near.name)
    loader = wait_until(lambda: loader_of(started), "the loader to start")
    os.kill(loader, signal.SIGSTOP)
    started.kill()

    try:
        wait_until(lambda: not Path(f"/proc/{loader}").exists(), "the loader to end", 5.0)
    finally:
        if Path(f"/proc/{loader}").exists():
            os.kill(loader, signal.SIGKILL)
        remove_pins(started)


def test_a_loader_whose_agent_was_killed_first_does_not_begin():
    not_its_parent = str(os.getppid())
    command = [sys.executable, "-m", "agent.loader", not_its_parent]
    orphan = subprocess.run(
        command, check=False, cwd=ROOT, input="no plan", capture_output=True, text=True
    )

    # It did not come to reading the plan.
    assert (orphan.returncode, orphan.stdout, orphan.stderr) == (1, "", "")


def loader_of(started: Agent) -> int | None:
    """The process id of an agent's loader once it compiles."""
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    for child in children:
        maps = Path(f"/proc/{child}/maps")
        if b"agent.loader" in Path(f"/proc/{child}/cmdline").read_bytes() and "libbcc" in (
            maps.read_text()
        ):
            return int(child)
    return None
