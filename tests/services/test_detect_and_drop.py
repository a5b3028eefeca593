# SPDX-License-Identifier: Apache-2.0
"""From the first packet of an attack to the rule in the kernel, with everything between them real.

attacker -> agent -> Kafka -> alert -> signed rule -> Kafka -> agent -> XDP or tc
"""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from schemas.rules.signed import new_key, public_text
from tests.agent.test_rules import ask
from tests.consumer.process import Consumer
from tests.lab.agents import ROOT, Agent, agent
from tests.lab.links import HERE, Link
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.services, pytest.mark.kernel]

PORT = 4443
SPOOFED = "203.0.113.0/24"


@contextmanager
def under_attack(link: Link, kind: str, *options: str) -> Iterator[None]:
    """Meanwhile the far end attacks the near one."""
    # What the near one answers to whoever it believes to be there must stay on the link.
    HERE.run("ip", "route", "add", SPOOFED, "dev", link.near.name)
    command = link.far.namespace.command(
        *(sys.executable, "-m", "bench.attack", kind, link.far.name, link.near.mac),
        *(link.near.ipv4, "--port", str(PORT), *options),
    )
    attacker = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert attacker.stdout is not None
        assert int(attacker.stdout.readline()) > 0
        yield
    finally:
        attacker.communicate()


class Conversation:
    """A client of the far end that talks to a server at the near one, and waits for each answer."""

    def __init__(self, link: Link) -> None:
        self._server = socket.create_server((link.near.ipv4, PORT))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self._client = subprocess.Popen(
            link.far.namespace.command(
                *(sys.executable, "-c", _CLIENT, link.near.ipv4, str(PORT)),
            ),
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        assert self._client.stdout is not None
        assert self._client.stdout.readline() == "connected\n"

    def _serve(self) -> None:
        peer, _ = self._server.accept()
        with peer:
            while data := peer.recv(100):
                peer.sendall(data)

    def end(self) -> tuple[int, float]:
        """How many answers came, and the longest that one took, in seconds."""
        said, _ = self._client.communicate()
        self._thread.join()
        self._server.close()
        count, longest = said.split()
        return int(count), float(longest)


_CLIENT = """
import select, socket, sys, time
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print("connected", flush=True)
count, longest = 0, 0.0
while not select.select([sys.stdin], [], [], 0.02)[0]:
    began = time.monotonic()
    peer.sendall(b"x" * 50)
    assert peer.recv(100)
    count, longest = count + 1, max(longest, time.monotonic() - began)
print(count, longest)
"""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    pem, public = new_key()
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "trusted").write_text(f"alert {public_text(public)}\n")
    return tmp_path / "key.pem"


@contextmanager
def watched(link: Link, kafka: str, key: Path, **policy: str) -> Iterator[tuple[Agent, Consumer]]:
    """An agent, and the alerting service that it obeys."""
    flags = ("--interface", link.near.name, "--trusted-keys", str(key.with_name("trusted")))
    with agent(*flags, kafka=kafka) as started:
        config = key.with_name("hookline.toml")
        config.write_text(
            f'[alert.mitigation]\nkey = "{key}"\nnodes = ["{started.name}"]\n'
            + "".join(f'{name} = ["{detector}"]\n' for name, detector in policy.items())
        )
        with Consumer(
            key.parent,
            *("--kafka", kafka, "--group", f"alert-{started.name}", "--config", str(config)),
            *("--folder", str(key.with_name("alert"))),
            name="alert",
            module="consumer.alerts",
        ) as service:
            wait_until(lambda: "alert ready: " in service.log, "the service to be ready")
            yield started, service


def rules(started: Agent) -> list[dict[str, object]]:
    return list(ask(started, do="rules")["rules"])


def refused(started: Agent) -> int:
    return sum(int(str(one["over_packets"])) for one in rules(started))


def test_a_flood_is_refused_within_seconds_and_who_was_connected_notices_nothing(wire, kafka, key):
    with watched(wire, kafka, key, enforce="syn_flood") as (started, service):
        conversation = Conversation(wire)
        time.sleep(2)
        with under_attack(wire, "syn", "--source", SPOOFED, "--rate", "3000"):
            began = time.monotonic()
            wait_until(lambda: refused(started) > 0, f"packets to be refused: {service.log}")
            took_s = time.monotonic() - began
            time.sleep(1)
            (rule,) = rules(started)
        answers, longest_s = conversation.end()
        assert (rule["state"], rule["from"]) == ("enforced", "network")
        assert SPOOFED in str(rule["match"])
        assert int(str(rule["over_packets"])) > 1000
        # A broken connection would have ended the conversation, a lost packet cost 200 ms.
        assert answers > 50
        assert longest_s < 1.0
        assert took_s < 15
        assert "rule sent" in service.log
        assert service.process.poll() is None
        started.stop()


def test_a_rule_that_may_only_be_observed_refuses_nothing(wire, kafka, key):
    with watched(wire, kafka, key, observe="port_scan") as (started, service):
        with under_attack(wire, "scan", "--source", "203.0.113.9/32", "--rate", "2000"):
            wait_until(lambda: refused(started) > 0, f"packets to be counted: {service.log}")
            (rule,) = rules(started)
        assert rule["state"] == "observed"
        started.stop()
