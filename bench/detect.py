# SPDX-License-Identifier: Apache-2.0
"""How long an attack goes on until somebody is told, and until every node refuses its packets.

    python -m bench.detect [--quick | --long]

Two agents, each at a link of its own, a real Kafka and the alerting service, whose rules both agents
obey.  Every run attacks another address over both links at once.  Times begin with the attacker's
first packet: *alert* is Kafka's time of the alert's record, *dropped* is when the kernel refused the
first packet, at the node that was last to do so.  A client that was connected before talks all the
while to a server behind each link.  Only a long run has as many attacks as are published, agents of
another interval, and a scan that takes its time.
"""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from aiokafka import AIOKafkaConsumer, TopicPartition

from agent.plan import remove_all, root_of
from bench.link import ROOT, Link, ip, link
from bench.rounds import table
from bench.subject import Scale, main
from hookline.kafka import Kafka
from schemas import wire
from schemas.alert import ALERT
from schemas.catalogue import RECORDS
from schemas.refusal import DROP
from schemas.rules.signed import new_key, public_text
from schemas.wire import Names, Text

# Set aside for documentation and for benchmarks: nobody's, and routed back over the link.
# Victims are of 203.0.113.0/24.
SPOOFED, ATTACKERS = "100.64.0.0/15", "192.0.2.0/24"
# Another one each time: what one did before stands in a rule.
ONE = "one"
ATTACKS = {
    "SYN flood, 100,000 spoofed sources": ("syn", "--source", SPOOFED),
    "UDP flood, one source": ("udp", "--source", ONE),
    "ICMP flood, one source": ("icmp", "--source", ONE),
    "port scan, one source": ("scan", "--source", ONE),
    "slow scan, 10 ports a second": ("scan", "--source", ONE, "--rate", "10"),
}
# Packets a second over each link: what two CPUs have to spare, on which all of this runs at once.
RATE = 5000
INTERVALS = (1.0, 0.25)
QUIET_SECONDS = 15.0  # in which the detectors learn what is ordinary
LONGEST_SECONDS = 60.0
PORT = 443

_CLIENT = """
import select, socket, sys, time
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print("connected", flush=True)
count, longest = 0, 0.0
while not select.select([sys.stdin], [], [], 0.01)[0]:
    began = time.monotonic()
    peer.sendall(b"x" * 50)
    assert peer.recv(100)
    count, longest = count + 1, max(longest, time.monotonic() - began)
print(count, longest)
"""


def measure(scale: Scale) -> list[dict]:
    intervals = INTERVALS if scale.is_long else INTERVALS[:1]
    return [asyncio.run(at_interval(scale, interval)) for interval in intervals]


async def at_interval(scale: Scale, interval: float) -> dict:
    with tempfile.TemporaryDirectory() as name:
        async with Kafka(Path(name) / "kafka") as broker:
            return await asyncio.to_thread(_at_interval, scale, interval, Path(name), broker)


def _at_interval(scale: Scale, interval: float, folder: Path, broker: Kafka) -> dict:
    kafka = broker.bootstrap
    runs, slow_runs = scale.pick(3, 2, 20), scale.pick(0, 0, 5)
    with ExitStack() as stack:
        trusted = a_key(folder)
        sites = [stack.enter_context(site(kafka, trusted, interval)) for _ in range(2)]
        stack.enter_context(alerting(kafka, folder))
        for one in sites:
            one.converse()
        time.sleep(QUIET_SECONDS)
        victims = (f"203.0.113.{number}" for number in range(1, 255))
        counts = {name: slow_runs if "slow" in name else runs for name in ATTACKS}
        found = {
            name: [
                attacked(sites, next(victims), ATTACKS[name], kafka) for _ in range(counts[name])
            ]
            for name in ATTACKS
            if counts[name]
        }
        talks = [one.end_conversation() for one in sites]
    rows = [[name, *figures(of_attack)] for name, of_attack in found.items()]
    answers, longest = sum(count for count, _ in talks), max(one for _, one in talks)
    return table(
        f"Seconds from an attack's first packet, agents that report every {interval:g} s",
        ["", "runs", "alert, median", "alert, worst", "dropped everywhere, median", "worst"],
        rows,
        f"Clients that were connected before got all of {answers} answers meanwhile, the slowest"
        f" after {1000 * longest:.0f} ms.",
    )


def figures(runs: list[tuple[float, float]]) -> list[object]:
    alerts, drops = zip(*runs, strict=True)
    return [
        len(runs),
        *(round(one, 2) for one in (median(alerts), max(alerts), median(drops), max(drops))),
    ]


@dataclass(slots=True)
class Site:
    """A link, the agent at our end, and who talks over it."""

    link: Link
    node: str
    mac: str
    _talk: list[subprocess.Popen[str]] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def converse(self) -> None:
        """Have a client of the other end talk to a server here."""
        server = socket.create_server((self.link.address, PORT))
        thread = threading.Thread(target=_serve, args=(server,), daemon=True)
        thread.start()
        client = self.link.start_with("-c", _CLIENT, self.link.address, str(PORT))
        client.stdout.readline()
        self._talk.append(client)
        self._threads.append(thread)

    def end_conversation(self) -> tuple[int, float]:
        """How many answers came, and after how many seconds the slowest."""
        said, _ = self._talk.pop().communicate()
        self._threads.pop().join()
        count, longest = said.split()
        return int(count), float(longest)


def _serve(server: socket.socket) -> None:
    peer, _ = server.accept()
    with server, peer:
        while data := peer.recv(100):
            peer.sendall(data)


@contextmanager
def site(kafka: str, trusted: Path, interval: float) -> Iterator[Site]:
    with link() as one:
        # What is answered to the attacker stays on the link, and so does the attack itself.
        for network in (SPOOFED, ATTACKERS):
            ip(f"route add {network} dev {one.name} metric {one.ifindex}")
        node = f"hlb{os.getpid()}-{secrets.token_hex(3)}"
        command = [
            *(sys.executable, "-m", "agent", "--interface", one.name, "--kafka", kafka),
            *("--name", node, "--node", node, "--interval", str(interval), "--sockets", "no"),
            *("--spool", str(trusted.with_name(f"spool-{node}")), "--on-stop", "detach"),
            *("--trusted-keys", str(trusted), "--ring-bytes", str(1 << 24)),
        ]
        agent = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        try:
            while "agent ready" not in agent.stderr.readline():
                assert agent.poll() is None
            threading.Thread(target=agent.stderr.read, daemon=True).start()
            mac = Path(f"/sys/class/net/{one.name}/address").read_text().strip()
            yield Site(one, node, mac)
        finally:
            agent.terminate()
            agent.wait(30)
            remove_all(root_of(node))


def a_key(folder: Path) -> Path:
    """The file of keys that agents trust, beside that of the key."""
    pem, public = new_key()
    (folder / "key.pem").write_bytes(pem)
    (folder / "trusted").write_text(f"bench {public_text(public)}\n")
    return folder / "trusted"


@contextmanager
def alerting(kafka: str, folder: Path) -> Iterator[None]:
    config = folder / "hookline.toml"
    config.write_text(
        f'[alert.mitigation]\nkey = "{folder / "key.pem"}"\nmost_rules = 200\n'
        'enforce = ["syn_flood", "udp_flood", "icmp_flood", "port_scan"]\n'
        # As a site would set it whose hosts are small.
        "[alert.udp_flood]\npackets_per_second = 2000.0\n"
    )
    service = subprocess.Popen(
        [
            *(sys.executable, "-m", "consumer.alerts", "--kafka", kafka),
            *("--config", str(config), "--folder", str(folder / "alert")),
            *("--new-per-minute", "1000"),
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while "alert ready" not in service.stderr.readline():
            assert service.poll() is None
        threading.Thread(target=service.stderr.read, daemon=True).start()
        yield
    finally:
        service.terminate()
        service.wait(30)


def attacked(
    sites: list[Site], victim: str, options: tuple[str, ...], kafka: str
) -> tuple[float, float]:
    """Seconds to the alert, and to the first dropped packet at the last node."""
    source = f"192.0.2.{victim.rpartition('.')[2]}/32"
    kind, *others = (source if one == ONE else one for one in options)
    for one in sites:
        ip(f"addr add {victim}/32 dev {one.link.name}")
    attackers = [
        one.link.start(
            *("bench.attack", kind, one.link.far, one.mac, victim),
            *("--port", str(PORT), "--rate", str(RATE), *others),
        )
        for one in sites
    ]
    try:
        began_ns = min(int(attacker.stdout.readline()) for attacker in attackers)
        return asyncio.run(_first_times(kafka, victim, [one.node for one in sites], began_ns))
    finally:
        for attacker in attackers:
            attacker.communicate()
        for one in sites:
            ip(f"addr del {victim}/32 dev {one.link.name}")


async def _first_times(
    kafka: str, victim: str, nodes: list[str], began_ns: int
) -> tuple[float, float]:
    reader = AIOKafkaConsumer(bootstrap_servers=kafka, fetch_max_wait_ms=50)
    await reader.start()
    alert_ns, dropped_ns = 0, dict[str, int]()
    try:
        parts = [
            TopicPartition(one.topic, number)
            for one in RECORDS
            if one in (ALERT, DROP)
            for number in reader.partitions_for_topic(one.topic) or {0}
        ]
        reader.assign(parts)
        starts = await reader.offsets_for_times(dict.fromkeys(parts, began_ns // 10**6))
        for one, start in starts.items():
            if start is None:
                await reader.seek_to_end(one)
            else:
                reader.seek(one, start.offset)
        deadline = time.monotonic() + LONGEST_SECONDS
        while not (alert_ns and len(dropped_ns) == len(nodes)):
            assert time.monotonic() < deadline, (victim, alert_ns, dropped_ns)
            for records in (await reader.getmany(timeout_ms=100)).values():
                for record in records:
                    batch = wire.decode(record.value)
                    if batch.kind == ALERT.kind and not alert_ns and victim in _labels(batch):
                        alert_ns = record.timestamp * 10**6
                    elif batch.kind == DROP.kind and (first := _first_drop(batch, victim)):
                        dropped_ns.setdefault(batch.node, first)
    finally:
        await reader.stop()
    last_ns = max(dropped_ns.values())
    return (alert_ns - began_ns) / 1e9, (last_ns - began_ns) / 1e9


def _labels(batch: wire.Batch) -> str:
    labels = batch.columns["labels"]
    assert isinstance(labels, Text)
    return labels.content.tobytes().decode()


def _first_drop(batch: wire.Batch, victim: str) -> int:
    """Wall time of the first packet to the victim that was refused; 0 where none was."""
    wanted = b"\0" * 10 + b"\xff\xff" + socket.inet_aton(victim)
    rule, times, to = (batch.columns[name] for name in ("rule", "time", "dst_addr"))
    assert isinstance(rule, Names)
    found = [int(at) for at, addr in zip(times, to, strict=True) if addr.tobytes() == wanted]
    return min(found, default=0)


if __name__ == "__main__":
    main(measure, __doc__)
