# SPDX-License-Identifier: Apache-2.0
"""No password is in anything that a service shows: its words, its metrics, the list of processes.

The services run at their most talkative against a broker that asks for a password, by the mechanism
that sends it as it is.
"""

import base64
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.agent.test_life import loader_of
from tests.consumer.process import Consumer, free_port
from tests.lab.agents import ROOT, Agent, remove_pins
from tests.lab.waiting import wait_until
from tests.services.secure_broker import PASSWORDS

pytestmark = pytest.mark.services

GUESSED = "a password that was guessed"
OF_CLICKHOUSE = "a password of clickhouse"


def shows(text: str, password: str) -> bool:
    """Whether *text* holds the password, as it is or as programs write such things."""
    encoded = base64.b64encode(password.encode()).decode()
    return any(one in text for one in (password, password.encode().hex(), encoded, encoded[:-2]))


def command_lines() -> str:
    """What `ps` shows to every user."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            lines.append((process / "cmdline").read_text(errors="replace"))
        except OSError:
            continue
    return "\n".join(lines)


def flags_of(options: dict[str, str]) -> list[str]:
    plain = {name: value for name, value in options.items() if name != "kafka_password"}
    return [
        *(f"--{name.replace('_', '-')}={value}" for name, value in plain.items()),
        "--kafka-sasl=PLAIN",
        "--log-level=debug",
    ]


async def test_a_consumer_shows_no_password(secure_kafka, tmp_path):
    options = secure_kafka.options("PASSWORD", "consumer")
    given = {"HOOKLINE_KAFKA_PASSWORD": PASSWORDS["consumer"]}
    where = f"--clickhouse=chdb://{tmp_path / 'db'}"

    with Consumer(tmp_path, *flags_of(options), where, environment=given) as running:
        await running.until_ready()
        address = f"http://127.0.0.1:{running.metrics_port}/metrics"
        with urllib.request.urlopen(address) as page:
            metrics = page.read().decode()
        listed = command_lines()
        assert await running.terminate() == 0

    assert " debug " in running.log
    assert not shows(running.log + metrics + listed, PASSWORDS["consumer"])


@pytest.mark.parametrize("server", ["nobody listens", "it refuses"])
async def test_a_consumer_that_is_not_let_in_shows_no_password(secure_kafka, tmp_path, server):
    options = secure_kafka.options("PASSWORD", "consumer")
    password = tmp_path / "password"
    password.write_text(f"{GUESSED}\n")
    password.chmod(0o600)
    given = {"HOOKLINE_CLICKHOUSE_PASSWORD": OF_CLICKHOUSE}
    if server == "nobody listens":
        given["HOOKLINE_CLICKHOUSE"] = f"http://me:{OF_CLICKHOUSE}@127.0.0.1:{free_port()}"
    else:
        given["HOOKLINE_CLICKHOUSE"] = f"chdb://{tmp_path / 'db'}"
    flags = [f"--kafka-password-file={password}", "--start-timeout=5"]

    with Consumer(tmp_path, *flags_of(options), *flags, environment=given) as refused:
        assert await refused.ended() == 1

    assert not shows(refused.log, GUESSED)
    assert not shows(refused.log, OF_CLICKHOUSE)


@pytest.mark.kernel
def test_an_agent_shows_no_password_and_hands_none_to_its_loader(secure_kafka, wire, tmp_path):
    options = secure_kafka.options("PASSWORD", "agent")
    given = {
        "HOOKLINE_KAFKA_PASSWORD": PASSWORDS["agent"],
        "HOOKLINE_INTERFACE": wire.near.name,
        "CACHE_DIRECTORY": str(tmp_path),  # empty: so the loader takes its time
    }
    address = f"127.0.0.1:{free_port()}"
    flags = [*flags_of(options), f"--metrics-listen={address}"]

    running = Agent(*flags, kafka=options["kafka"], environment=given)
    try:
        loader = wait_until(lambda: loader_of(running), "the loader to start")
        os.kill(loader, signal.SIGSTOP)
        of_loader = Path(f"/proc/{loader}/environ").read_text()
        os.kill(loader, signal.SIGCONT)
        running.until_ready()
        with urllib.request.urlopen(f"http://{address}/metrics") as page:
            metrics = page.read().decode()
        listed = command_lines()
        assert running.stop() == 0
    finally:
        if running.is_running:
            running.kill()
        remove_pins(running)

    assert "PATH=" in of_loader
    assert "HOOKLINE_" not in of_loader
    assert not shows(running.said + metrics + listed, PASSWORDS["agent"])


@pytest.mark.parametrize("service", ["agent", "consumer"])
def test_a_check_shows_no_password(service):
    given = {"HOOKLINE_KAFKA_PASSWORD": GUESSED, "HOOKLINE_CLICKHOUSE_PASSWORD": OF_CLICKHOUSE}
    given["HOOKLINE_CLICKHOUSE"] = f"http://me:{OF_CLICKHOUSE}@db:8123"
    user = ["--kafka-security=sasl_plaintext", "--kafka-user=me"]

    checked = subprocess.run(
        [sys.executable, "-m", service, "--check", *user],
        cwd=ROOT,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=True,
    )

    said = checked.stdout + checked.stderr
    assert "configuration is valid" in said
    assert not shows(said, GUESSED)
    assert not shows(said, OF_CLICKHOUSE)
    assert "sasl_plaintext shows what is sent" in checked.stderr
