# SPDX-License-Identifier: Apache-2.0
"""The systemd units are ones that systemd accepts, and give a service no more than it needs."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from agent.cache import FOLDER as FOLDER_OF_PROGRAMS
from agent.cli import main as run_agent
from agent.config import Config as AgentConfig
from consumer.alerts.cli import main as run_alert
from consumer.alerts.config import Config as AlertConfig
from consumer.cli import main as run_consumer
from consumer.config import Config as ConsumerConfig
from tests.deploy.test_compose import SERVICES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/systemd"
UNITS = {
    "agent": FOLDER / "hookline-agent.service",
    "consumer": FOLDER / "hookline-consumer.service",
    "alert": FOLDER / "hookline-alert.service",
}
CONFIGS = {"agent": AgentConfig, "consumer": ConsumerConfig, "alert": AlertConfig}
MODULES = {"agent": "agent", "consumer": "consumer", "alert": "consumer.alerts"}
MAINS = {"agent": run_agent, "consumer": run_consumer, "alert": run_alert}
# systemd's own scale, in tenths: 0 is a service that can do nothing, 100 is root's login shell.
MOST_EXPOSED = {"agent": 25, "consumer": 13, "alert": 12}


def settings(service: str) -> dict[str, list[str]]:
    """Every value of every setting, in order."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", UNITS[service].read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def installed(tmp_path):
    """The units as they are on a machine that has this repository in the place they name."""
    for path in UNITS.values():
        text = path.read_text().replace("/opt/hookline", str(ROOT))
        (tmp_path / path.name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("service", UNITS)
def test_systemd_finds_no_fault(service, installed):
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", installed / UNITS[service].name],
        capture_output=True,
        text=True,
        check=False,
    )

    assert verified.stdout + verified.stderr == ""
    assert verified.returncode == 0


@pytest.mark.parametrize("service", UNITS)
def test_a_service_is_exposed_no_more_than_it_must_be(service, installed):
    analysed = subprocess.run(
        [
            *("systemd-analyze", "security", "--offline=true", "--no-pager"),
            f"--threshold={MOST_EXPOSED[service]}",
            installed / UNITS[service].name,
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert analysed.returncode == 0, analysed.stdout[-200:]


@pytest.mark.parametrize("service", UNITS)
def test_the_service_accepts_its_command_line_and_the_example_file(service, capsys):
    (command,) = settings(service)["ExecStart"]
    example = command.replace("/etc/hookline", str(FOLDER))
    python, dash_m, module, *arguments = shlex.split(example)

    code = MAINS[service]([*arguments, "--check"], environ={})

    assert (Path(python).name, dash_m, module) == ("python", "-m", MODULES[service])
    assert code == 0
    assert "kafka-1:9092" in capsys.readouterr().out


@pytest.mark.parametrize("service", UNITS)
def test_what_the_example_leaves_out_are_options_too(service):
    text = re.sub(
        r"^# (\w+ = |\[)", r"\1", (FOLDER / "hookline.toml").read_text(), flags=re.MULTILINE
    )
    content = tomllib.loads(text)
    names = {field.name for field in CONFIGS[service].__dataclass_fields__.values()}
    shared = {name for name in content if name not in UNITS}

    assert shared <= names
    # Tables inside a service's own are checked by its configuration.
    assert {name for name, one in content[service].items() if not isinstance(one, dict)} <= names


@pytest.mark.parametrize("service", UNITS)
def test_a_credential_is_read_from_where_systemd_puts_it(service):
    name = UNITS[service].name
    text = (FOLDER / "hookline.toml").read_text()
    table = re.search(rf"^\[{service}\]\n(.*?)(?:^\[|\Z)", text, re.MULTILINE | re.DOTALL)[1]

    read = set(re.findall(r'"/run/credentials/([^"]+)"', table))

    assert read == {f"{name}/{credential}" for credential in settings(service)["LoadCredential"]}


@pytest.mark.parametrize("service", UNITS)
def test_a_service_has_the_time_that_it_takes_to_stop(service):
    (seconds,) = settings(service)["TimeoutStopSec"]

    assert int(seconds) > CONFIGS[service]().stop_timeout


def test_the_agent_has_the_same_powers_as_in_a_container():
    (granted,) = settings("agent")["CapabilityBoundingSet"]

    assert granted.split() == [f"CAP_{name}" for name in SERVICES["agent"]["cap_add"]]


def test_only_root_may_write_to_what_the_agent_loads_into_the_kernel():
    found = settings("agent")

    assert [FOLDER_OF_PROGRAMS.parent / name for name in found["CacheDirectory"]] == [
        FOLDER_OF_PROGRAMS
    ]
    assert found["CacheDirectoryMode"] == ["0700"]


@pytest.mark.parametrize("service", ["consumer", "alert"])
def test_what_needs_no_powers_has_none(service):
    found = settings(service)

    assert found["CapabilityBoundingSet"] == [""]
    assert found["DynamicUser"] == ["yes"]
