# SPDX-License-Identifier: Apache-2.0
"""No packet is uncounted while agents are killed, stopped, upgraded and started again.

The oracle is the interface's own counters, over the whole time.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from agent.plan import root_of
from schemas.interface import EVENTS
from tests.lab.agents import ROOT, SPOOLS, Agent, agent, remove_pins
from tests.lab.compilers import keeping_in
from tests.lab.links import HERE, Link, link
from tests.lab.published import Published, read_published
from tests.lab.traffic import ping, udp_burst
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.services]

KEEP = ("--on-stop", "keep")


@contextmanager
def traffic(wire: Link, flows: int = 200) -> Iterator[None]:
    """Datagrams from the near end and answers from the far one, until the block is left."""
    done = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            number = 0
            while not done.is_set():
                for _ in range(20):
                    sock.sendto(b"x" * (number % 900), (wire.far.ipv4, 1024 + number % flows))
                    number += 1
                time.sleep(0.002)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        done.set()
        sender.join()


@contextmanager
def successors(
    *flags: str, kafka: str, root: Path = ROOT, run_by: Sequence[str] = ()
) -> Iterator["Line"]:
    """Agents of one name, one after the other; the last one detaches, the first runs from *root*."""
    line = Line(flags, kafka, root, run_by)
    try:
        line.latest.until_ready()
        yield line
    finally:
        line.end()


class Line:
    """The agents that had one name, of which the latest runs."""

    def __init__(
        self, flags: tuple[str, ...], kafka: str, root: Path, run_by: Sequence[str]
    ) -> None:
        self._flags = flags
        self._kafka = kafka
        self._run_by = run_by
        self.latest = Agent(*KEEP, *flags, kafka=kafka, root=root, run_by=run_by)
        self.name = self.latest.name

    def following(self, *further: str) -> Agent:
        """The next one, once it is ready."""
        flags = (*KEEP, *self._flags, *further)
        self.latest = Agent(*flags, kafka=self._kafka, name=self.name, run_by=self._run_by)
        return self.latest.until_ready()

    def finish(self) -> Published:
        """Stop the latest for good, and read what all of them have published."""
        assert self.latest.stop(signal.SIGINT) == 0, self.latest.said
        return read_published(self._kafka, self.name)

    def end(self) -> None:
        if self.latest.is_running:
            self.latest.kill()
        remove_pins(self.latest)
        shutil.rmtree(SPOOLS / self.name, ignore_errors=True)


def assert_books_balance(published: Published, ingress: tuple, egress: tuple) -> None:
    """Rows, and the ledger, are what the interface counted; no batch is missing."""
    assert published.sums("egress") == egress
    assert published.sums("ingress") == ingress
    assert published.sums("egress", kind="ledger") == egress
    assert published.sums("ingress", kind="ledger") == ingress
    assert int(published.column("ledger", "flow_packets").sum()) == ingress[0] + egress[0]
    assert int(published.column("ledger", "link_packets").sum()) == ingress[0] + egress[0]
    seqs = defaultdict(list)
    for kind, batches in published.batches.items():
        for batch in batches:
            seqs[batch.run, kind].append(batch.seq)
    assert all(found == list(range(len(found))) for found in seqs.values())
    of_run, of_kind, made = (
        published.column("delivery", name).tolist() for name in ("of_run", "of_kind", "made")
    )
    last = dict(zip(zip(of_run, of_kind, strict=True), made, strict=True))
    # One that was killed before anything of it was valid has made nothing.
    assert {key: len(found) for key, found in seqs.items()} == {
        key: batches for key, batches in last.items() if batches
    }


@pytest.mark.parametrize(
    "flags",
    [
        # Each hook and each buffer with room and without, tc's two with both buffers.
        (),
        ("--tc", "clsact", "--buffer", "perf"),
        ("--hook", "xdp-generic", "--flow-slots", "64"),
        ("--tc", "clsact", "--flow-slots", "64", "--ring-bytes", "4096"),
        ("--flow-slots", "64", "--ring-bytes", "8192", "--buffer", "perf"),
    ],
    ids=lambda flags: " ".join(flags) or "tcx",
)
def test_agents_that_are_killed_at_any_time_count_every_packet_once(kafka, wire, flags):
    pauses = random.Random(f"killed {flags}")
    before = wire.quiet()
    with successors(
        "--interface", wire.near.name, "--interval", "0.2", *flags, kafka=kafka
    ) as line:
        with traffic(wire):
            for _ in range(2):
                time.sleep(pauses.uniform(0.1, 0.7))
                line.latest.kill()
                time.sleep(pauses.uniform(0.0, 0.3))
                line.following()
        ping(wire)
        grown = wire.quiet() - before
        published = line.finish()

    assert_books_balance(published, grown.ingress, grown.egress)
    assert not line.latest.pins.exists()


def test_an_agent_that_is_stopped_leaves_its_programs_to_the_next(kafka, wire):
    before = wire.quiet()
    with successors("--interface", wire.near.name, kafka=kafka) as line:
        udp_burst(wire, flows=20, packets=100)
        assert line.latest.stop() == 0
        assert "the programs count on for the next agent" in line.latest.said
        udp_burst(wire, flows=20, packets=50)
        following = line.following()
        udp_burst(wire, flows=20, packets=25)
        grown = wire.quiet() - before
        published = line.finish()

    assert "goes on where an earlier agent had ended" in following.said
    assert_books_balance(published, grown.ingress, grown.egress)
    assert grown.egress[0] == 175
    assert events(published) == ["attached", "adopted", "detached"]


def test_whoever_may_attach_and_nothing_else_takes_over_too(kafka, wire, tmp_path):
    # As the unit of systemd has it.
    least = "--bounding-set=-all,+net_admin,+perfmon,+bpf"
    before = wire.quiet()
    with successors(
        "--interface", wire.near.name, kafka=kafka, run_by=("setpriv", "--inh-caps=-all", least)
    ) as line:
        udp_burst(wire, flows=20, packets=100)
        line.latest.kill()
        udp_burst(wire, flows=20, packets=50)
        line.following()
        line.latest.kill()
        # Other programs, that nobody has compiled yet.
        with keeping_in(tmp_path / "compiled"):
            line.following("--sample", "7")
        udp_burst(wire, flows=20, packets=25)
        grown = wire.quiet() - before
        published = line.finish()

    assert grown.egress[0] == 175
    assert_books_balance(published, grown.ingress, grown.egress)


def events(published: Published) -> list[str]:
    names = {number: name for name, number in EVENTS.items()}
    return [names[number] for number in published.column("interface", "event").tolist()]


def programs_of(line: Line) -> dict[str, tuple[int, int]]:
    """Program and inode number of each pinned map and program."""
    root = root_of(line.name)
    return {
        str(path.relative_to(root)): path.stat().st_ino
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "change", [("--sample", "7"), ("--dns", "yes"), ("--tunnels", "both")], ids=" ".join
)
def test_other_options_take_other_programs_and_keep_the_maps(kafka, wire, change):
    before = wire.quiet()
    with successors("--interface", wire.near.name, kafka=kafka) as line:
        layout = {path.name for path in root_of(line.name).iterdir()}
        with traffic(wire):
            time.sleep(0.3)
            line.latest.stop()
            line.following(*change)
            time.sleep(0.3)
        grown = wire.quiet() - before
        assert {path.name for path in root_of(line.name).iterdir()} == layout
        published = line.finish()

    assert_books_balance(published, grown.ingress, grown.egress)


def test_who_would_observe_at_tc_goes_on_at_xdp_where_an_agent_was_before(kafka, wire):
    # Fragments, which go on in another program.
    packet = IP(src=wire.far.ipv4, dst="198.18.255.9", flags="MF", id=7) / UDP(sport=7, dport=9)
    fragment = bytes(Ether(src=wire.far.mac, dst=wire.near.mac) / packet / bytes(64))
    before = wire.quiet()
    with successors("--interface", wire.near.name, "--hook", "xdp-generic", kafka=kafka) as line:
        ping(wire)
        line.latest.kill()
        wire.far.send([fragment] * 3)
        line.following("--hook", "auto")
        wire.far.send([fragment] * 5)
        ping(wire)
        grown = wire.quiet() - before
        published = line.finish()

    assert "ingress=xdp_generic" in line.latest.said
    assert_books_balance(published, grown.ingress, grown.egress)
    ports = published.column("flow", "src_port")
    assert int(published.column("flow", "packets")[ports == 7].sum()) == 8


@pytest.mark.parametrize("end", ["stopped", "killed"])
@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_other_sizes_take_other_maps_and_what_was_in_the_first_is_told(kafka, wire, end, hook):
    before = wire.quiet()
    flags = ("--interface", wire.near.name, "--interval", "0.3", "--tc", hook)
    with successors(*flags, "--flow-slots", "256", kafka=kafka) as line:
        first = line.latest
        with traffic(wire):
            time.sleep(0.7)
            first.stop() if end == "stopped" else first.kill()
            following = line.following("--flow-slots", "4096")
            time.sleep(0.5)
        ping(wire)
        grown = wire.quiet() - before
        folders = [path.name for path in root_of(line.name).iterdir()]
        published = line.finish()

    assert "takes the place of an earlier agent" in following.said
    assert len(folders) == 2  # the links, and one layout
    assert_books_balance(published, grown.ingress, grown.egress)


@pytest.fixture(scope="module")
def another_version(tmp_path_factory) -> Path:
    """This agent with its structs laid out otherwise, as an earlier or later one might have."""
    root = tmp_path_factory.mktemp("version")
    for folder in ("agent", "bpf", "schemas", "service"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path, before, after in (
        # The lane's parts in another order, and totals with a counter that is unknown to us.
        (
            "schemas/flow.py",
            '(("point", 12), ("vlan", 12), ("dscp", 6)',
            '(("dscp", 6), ("point", 12), ("vlan", 12)',
        ),
        ("schemas/flow.py", '(("point", 12), ("context", 18)', '(("context", 18), ("point", 12)'),
        (
            "schemas/ledger.py",
            "        pad(56),",
            '        Field("unheard_of", U64, ""),\n        pad(48),',
        ),
    ):
        text = (root / path).read_text()
        assert before in text
        (root / path).write_text(text.replace(before, after))
    # The context's number must begin where VLAN and DSCP do; see bpf/contexts.bpf.h.
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run(
        [sys.executable, "-m", "schemas.generate"], cwd=root, env=environment, check=False
    )
    return root


def test_another_version_with_other_structs_is_succeeded_without_a_packet_uncounted(
    kafka, wire, another_version
):
    before = wire.quiet()
    flags = ("--interface", wire.near.name, "--interval", "0.3")
    with successors(*flags, kafka=kafka, root=another_version) as line:
        with traffic(wire):
            time.sleep(0.7)
            line.latest.kill()
            following = line.following()
            time.sleep(0.5)
        grown = wire.quiet() - before
        published = line.finish()

    assert "takes the place of an earlier agent" in following.said
    assert_books_balance(published, grown.ingress, grown.egress)


def test_an_interface_that_went_while_there_was_no_agent_is_told_under_its_name(kafka, lab):
    with link() as stays, link() as goes:
        flags = ("--interface", stays.near.name, "--interface", f"{goes.near.name}*")
        before = goes.quiet()
        with successors(*flags, "--interval", "0.2", kafka=kafka) as line:
            udp_burst(goes, flows=20, packets=100)
            line.latest.kill()
            udp_burst(goes, flows=20, packets=50)
            grown = goes.quiet() - before
            HERE.run("ip", "link", "del", goes.near.name)
            line.following()
            ping(stays)
            published = line.finish()

    assert published.sums("egress", interface=goes.near.name) == grown.egress
    told = zip(published.column("interface", "interface"), events(published), strict=True)
    assert [event for name, event in told if name == goes.near.name] == ["attached", "gone"]


def test_an_interface_that_was_renamed_meanwhile_goes_on_under_its_new_name(kafka, wire):
    before = wire.quiet()
    with successors("--interface", f"{wire.near.name}*", "--interval", "0.2", kafka=kafka) as line:
        udp_burst(wire, flows=20, packets=100)
        line.latest.kill()
        HERE.run("ip", "link", "set", wire.near.name, "name", f"{wire.near.name}x")
        try:
            line.following()
            line.latest.until_it_says("interface has changed")
            udp_burst(wire, flows=20, packets=50)
            published = line.finish()
        finally:
            HERE.run("ip", "link", "set", f"{wire.near.name}x", "name", wire.near.name)
        grown = wire.quiet() - before

    assert published.sums("egress") == grown.egress
    assert published.sums("egress", interface=f"{wire.near.name}x")[0] == 50
    assert events(published) == ["attached", "adopted", "changed", "detached"]


def test_interfaces_of_other_namespaces_are_taken_over_too(kafka, wire):
    netns = wire.far.namespace.name
    flags = ("--netns", netns, "--interface", f"{netns}/*b", "--interval", "0.2")
    before = wire.quiet()
    with successors(*flags, kafka=kafka) as line:
        udp_burst(wire, flows=20, packets=100)
        line.latest.kill()
        udp_burst(wire, flows=20, packets=50)
        line.following()
        udp_burst(wire, flows=20, packets=25)
        grown = wire.quiet() - before
        published = line.finish()

    # What one end sends, the other receives.
    assert_books_balance(published, grown.egress, grown.ingress)
    assert set(published.column("flow", "interface")) == {f"{netns}/{wire.far.name}"}


def test_rows_that_wait_for_kafka_outlive_the_agents_that_made_them(kafka, wire):
    before = wire.quiet()
    with successors(
        "--interface", wire.near.name, "--interval", "0.2", kafka="127.0.0.1:9"
    ) as line:
        for _ in range(3):
            already = spooled(line)
            udp_burst(wire, flows=20, packets=100)
            wait_until(lambda: spooled(line) > already, "batches in the spool")  # noqa: B023
            line.latest.kill()
            line.following()
        grown = wire.quiet() - before
        line.latest.stop()
        last = Agent("--interface", wire.near.name, kafka=kafka, name=line.name).until_ready()
        assert last.stop() == 0
        published = read_published(kafka, line.name)

    assert_books_balance(published, grown.ingress, grown.egress)
    assert len(set(published.column("delivery", "of_run"))) == 5


def spooled(line: Line) -> int:
    return sum(path.stat().st_size for path in (SPOOLS / line.name).rglob("*.batches"))


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


def test_an_agent_that_runs_is_not_detached_behind_its_back(wire):
    with agent("--interface", wire.near.name) as observed:
        code, _ = detach(observed.name, "127.0.0.1:9")

        assert code == 1
        assert observed.pins.exists()


def test_an_agent_that_is_killed_as_it_starts_leaves_nothing_that_the_next_cannot_use(kafka, wire):
    moments = random.Random("killed as it starts")
    before = wire.quiet()
    with successors("--interface", wire.near.name, "--interval", "0.2", kafka=kafka) as line:
        with traffic(wire):
            line.latest.kill()
            for _ in range(6):
                starting = Agent(*KEEP, "--interface", wire.near.name, kafka=kafka, name=line.name)
                time.sleep(moments.uniform(0.2, 2.5))
                starting.kill()
            line.following()
        grown = wire.quiet() - before
        published = line.finish()

    assert_books_balance(published, grown.ingress, grown.egress)
