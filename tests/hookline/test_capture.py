# SPDX-License-Identifier: Apache-2.0
"""`hookline capture` writes the packets that its filter means, and disturbs no account.

The oracles are tcpdump with libpcap's own filters, tshark, and the interface's counters.
"""

import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from tests.lab.agents import agent
from tests.lab.capture import capturing as tcpdump
from tests.lab.captures import (
    COMMAND,
    ROOT,
    capture,
    capturing,
    counts_only,
    fields_of,
    frames_of,
    has_leftovers,
)
from tests.lab.cgroups import a_cgroup
from tests.lab.links import End, Link, link
from tests.lab.published import read_published
from tests.lab.traffic import iperf3, ping, udp_burst
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.kernel

# Ours, and libpcap's that means the same.
FILTERS = {
    "": "",
    "src net 198.18.1.0/24 and not dst port 53": (
        "(src net 198.18.1.0/24 and not arp and not dst port 53)"
        " or (vlan and src net 198.18.1.0/24 and not arp and not dst port 53)"
    ),
    "vlan 12 and ip6": "vlan 12 and ip6",
}
HOOK_FILTER = "tcp port 443 or icmp or arp"
HOOK_FILTERS = {
    HOOK_FILTER: f"{HOOK_FILTER} or (vlan and ({HOOK_FILTER}))",
}

# Datagrams, with pauses that leave a small machine something, until standard input ends.
FLOOD = """
import select, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
number = 0
while not select.select([sys.stdin], [], [], 0.002)[0]:
    for _ in range(10):
        number += 1
        sock.sendto(bytes(100), (sys.argv[1], 1024 + number % 50))
"""


def frames(link: Link, count: int, seed: int) -> list[bytes]:
    """Frames of many kinds that the far end may send, none of which is answered."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        # To nobody: the near end's stack sees them pass and lets them be.
        layers = Ether(src=link.far.mac, dst="02:48:4c:00:00:77")
        if draw.random() < 0.3:
            layers /= Dot1Q(vlan=draw.choice([12, 13]), prio=draw.randrange(8))
        ports = {"sport": draw.choice([53, 443, 5000]), "dport": draw.choice([53, 55, 443, 80])}
        inner = draw.choice(
            [
                *(TCP(flags=draw.choice(["S", "A", "PA", "R"]), **ports), UDP(**ports)),
                *(UDP(**ports), SCTP(**ports)),
            ]
        )
        v4 = IP(src=f"198.18.{draw.choice([1, 2])}.9", dst="198.18.3.1")
        v6 = IPv6(src=draw.choice(["2001:db8::7", "2001:db8::8"]), dst="2001:db8::1")
        packet = draw.choice(
            [v4 / inner, v4 / inner, v6 / inner, v4 / ICMP(), v6 / ICMPv6EchoRequest(), ARP()]
        )
        found.append(bytes(layers / packet / Raw(draw.randbytes(draw.choice([0, 30, 1000])))))
    return found


@pytest.fixture(scope="module")
def observed(lab):
    """An agent on a link, shared by tests that leave it as it was."""
    with link() as wire, agent("--interface", wire.near.name) as one:
        yield one, wire


@pytest.mark.parametrize(
    ("flags", "filters"),
    [((), FILTERS), (("--hook", "xdp"), HOOK_FILTERS), (("--tc", "clsact"), HOOK_FILTERS)],
    ids=["tcx", "xdp", "clsact"],
)
def test_it_has_the_packets_and_bytes_that_tcpdump_has(wire, tmp_path, flags, filters):
    with agent("--interface", wire.near.name, *flags) as one, ExitStack() as stack:
        captures = {
            text: stack.enter_context(capturing(one, tmp_path / f"{number}.pcapng", text))
            for number, text in enumerate(filters)
        }
        with tcpdump(wire.near, tmp_path / "all.pcap") as everything:
            wire.far.send(frames(wire, 300, seed=1))
            ping(wire, 3)
            udp_burst(wire, flows=5, packets=20)
            wire.quiet()
        for running in captures.values():
            running.stop()

    for text, running in captures.items():
        expected = frames_of(everything, filters[text])
        assert Counter(running.frames) == Counter(expected), text
        assert running.said.startswith(f"{len(expected)} packets captured, 0 lost"), running.said
        assert len(expected) > 10


def test_it_tells_interface_direction_time_and_length_of_so_many_packets(observed, tmp_path):
    one, wire = observed
    words = ("--snaplen", "70", "--count", "6", "udp or icmptype (8 or 0)")
    with capturing(one, tmp_path / "x.pcapng", *words) as running:
        ping(wire, 2)
        udp_burst(wire, flows=1, packets=50, payload=bytes(900))
        running.wait()

    rows = fields_of(
        running.path,
        *("frame.interface_name", "frame.packet_flags_direction", "frame.cap_len", "frame.len"),
    )
    times = [float(time) for (time,) in fields_of(running.path, "frame.time_epoch")]
    near, way_in, way_out = wire.near.name, "0x00000001", "0x00000002"
    ping_rows = [[near, way_in, "70", "98"], [near, way_out, "70", "98"]]
    assert rows == ping_rows * 2 + [[near, way_out, "70", "942"]] * 2
    assert times == sorted(times)
    assert abs(times[-1] - running.path.stat().st_mtime) < 20
    assert running.said == "6 packets captured, 0 lost in the kernel\n"


def test_each_packet_says_who_has_its_socket(wire, tmp_path):
    send = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 0))
sock.connect((sys.argv[2], 7777))
sock.send(b"x")
"""
    with a_cgroup("web.service") as web:
        flags = ("--sockets", "yes", "--cgroup", str(web.directory), "--interval", "60")
        with (
            agent("--interface", wire.near.name, *flags) as one,
            capturing(one, tmp_path / "x.pcapng", "--count", "1", "udp") as running,
        ):
            ends = (wire.near.ipv4, wire.far.ipv4)
            sender = subprocess.Popen(web.command("/usr/bin/python3", "-c", send, *ends))
            sender.wait()
            running.wait()

    # Before the interval ends, whose rows would tell; its cgroup may still be looked for.
    [[comment]] = fields_of(running.path, "frame.comment")
    assert comment.startswith(f"python3 (pid {sender.pid}")


def test_super_packets_are_captured_whole_and_kept_when_the_agent_ends(lab, tmp_path):
    with (
        link(offloads=True) as wire,
        agent("--interface", wire.near.name) as one,
        capturing(one, tmp_path / "x.pcapng") as running,
    ):
        with tcpdump_of_offloads(wire.near, tmp_path / "all.pcap") as everything:
            iperf3(wire, "-n", "3M")
            wire.quiet(seconds=0.3)
        one.stop()
        running.wait(code=1)
    ours, theirs = running.frames, frames_of(everything)

    assert max(map(len, ours)) > 20_000
    assert Counter(ours) == Counter(theirs)
    assert "the agent has ended, and the capture with it" in running.said


@contextmanager
def tcpdump_of_offloads(end: End, path: Path) -> Iterator[Path]:
    """As `tcpdump`, where counters do not tell how many frames there will be."""
    command = [
        "tcpdump",
        "-i",
        end.name,
        "-B",
        "65536",
        "-n",
        "-s",
        "0",
        "-U",
        "--immediate-mode",
        "-Z",
        "root",
    ]
    with subprocess.Popen([*command, "-w", str(path)], stderr=subprocess.PIPE, text=True) as dump:
        try:
            assert any("listening on" in line for line in iter(dump.stderr.readline, ""))
            yield path
            dump.send_signal(signal.SIGINT)
            assert "0 packets dropped by kernel" in dump.stderr.read()
        finally:
            dump.kill()


@pytest.mark.services
def test_captures_that_come_and_go_leave_the_accounts_exact(kafka, wire, tmp_path):
    before = wire.quiet()
    with agent("--interface", wire.near.name, "--interval", "0.2", kafka=kafka) as one:
        flood = subprocess.Popen(
            [sys.executable, "-c", FLOOD, wire.far.ipv4], stdin=subprocess.PIPE
        )
        try:
            for ending in (signal.SIGINT, signal.SIGKILL):
                path = tmp_path / f"{ending.name}.pcapng"
                with capturing(one, path, "udp") as running:
                    wait_until(partial(holds_much, path), "packets in the file")
                    running.process.send_signal(ending)
                    running.process.wait(30)
                wait_until(partial(counts_only, one), "the programs to count only")
                assert len(frames_of(path)) > 100
        finally:
            flood.stdin.close()
            flood.wait()
        grown = wire.quiet() - before
        assert one.stop() == 0
    published = read_published(kafka, one.name)

    assert grown.tx_packets > 2_000
    assert published.sums("egress") == grown.egress
    assert published.sums("ingress") == grown.ingress
    assert published.sums("egress", kind="ledger") == grown.egress


def holds_much(path: Path) -> bool:
    return path.stat().st_size > 100_000


def test_a_killed_client_takes_its_capture_along(observed, tmp_path):
    one, _ = observed
    with capturing(one, tmp_path / "x.pcapng") as running:
        assert not counts_only(one)

        running.process.kill()
        wait_until(
            lambda: counts_only(one) and not has_leftovers(one), "the programs to count only"
        )


def test_captures_beside_each_other_do_not_know_of_each_other(observed, tmp_path):
    one, wire = observed
    with capturing(one, tmp_path / "udp.pcapng", "udp") as first:
        with capturing(one, tmp_path / "icmp.pcapng", "icmptype (8 or 0)") as second:
            ping(wire, 2)
            udp_burst(wire, flows=1, packets=5)
            second.stop()
        udp_burst(wire, flows=1, packets=2)
        assert not counts_only(one)
        first.stop()

    assert (len(first.frames), len(second.frames)) == (7, 4)
    assert counts_only(one)


def test_a_capture_gets_nothing_of_what_the_one_before_in_its_place_wanted(observed, tmp_path):
    one, wire = observed
    with (
        capturing(one, tmp_path / "udp.pcapng", "udp") as first,
        capturing(one, tmp_path / "icmp.pcapng", "icmptype (8 or 0)"),
        subprocess.Popen(
            [sys.executable, "-c", FLOOD, wire.far.ipv4], stdin=subprocess.PIPE
        ) as sender,
    ):
        wait_until(partial(holds_much, first.path), "datagrams")
        first.stop()

        with capturing(one, tmp_path / "third.pcapng", "icmptype (8 or 0)") as third:
            ping(wire, 1)
            third.stop()
        sender.communicate()

    assert len(third.frames) == 2
    assert third.said.startswith("2 packets captured, 0 lost"), third.said


def test_what_the_kernel_had_no_room_for_is_told(observed, tmp_path):
    one, wire = observed
    with capturing(one, tmp_path / "x.pcapng", "--buffer", "1", "udp") as running:
        running.process.send_signal(signal.SIGSTOP)
        udp_burst(wire, flows=1, packets=2000, payload=bytes(1400))
        running.process.send_signal(signal.SIGCONT)
        running.stop()
    captured, lost = (int(word) for word in running.said.split() if word.isdigit())

    assert lost > 500
    assert captured + lost == 2000
    assert len(running.frames) == captured
    assert f"{lost} lost in the kernel; --buffer makes more room" in running.said


def test_it_ends_after_some_time_and_feeds_a_program(observed):
    one, _ = observed
    words = ["--agent", one.name, "-w", "-", "--for", "1s"]
    with subprocess.Popen([*COMMAND, *words], cwd=ROOT, stdout=subprocess.PIPE) as process:
        done = subprocess.run(
            ["tshark", "-n", "-r", "-"], stdin=process.stdout, check=False, capture_output=True
        )

    assert (process.returncode, done.returncode) == (0, 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hots", "10.0.0.1"], "'hots' at character 1 is no word of filters; write not, (,"),
        (["tcp", "and", "node", "x"], "'node' at character 9 can be asked of flows only"),
        (["--interface", "nix*"], "the agent observes no interface 'nix*'; there are: hlt"),
        (["--snaplen", "63"], "argument --snaplen: '63' is out of its limits: write 64 to 262144"),
        (["--buffer", "3"], "argument --buffer: '3' is no power of two"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(observed, tmp_path, words, said):
    one, _ = observed
    path = tmp_path / "x.pcapng"
    done = capture("--agent", one.name, "-w", str(path), *words)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"hookline capture: {said}")
    assert done.stderr.count("\n") == 1
    assert not path.exists()


def test_an_agent_that_is_not_there_is_named_with_those_that_are(observed, tmp_path):
    one, _ = observed
    done = capture("--agent", "nobody", "-w", str(tmp_path / "x"))

    assert done.returncode == 1
    assert "hookline capture: no agent named 'nobody' runs here; there are: " in done.stderr
    assert one.name in done.stderr


def test_a_kernel_without_the_ring_buffer_captures_nothing(wire, tmp_path):
    with agent("--interface", wire.near.name, "--buffer", "perf") as one:
        done = capture("--agent", one.name, "-w", str(tmp_path / "x"))

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "capturing needs the kernel's ring buffer (Linux 5.8)" in done.stderr


def test_nobody_but_root_may_ask_an_agent(observed):
    one, _ = observed
    about = Path(f"/run/hookline/{one.name}.sock").stat()

    assert (oct(about.st_mode & 0o777), about.st_uid) == ("0o600", 0)
