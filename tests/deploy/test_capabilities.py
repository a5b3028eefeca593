# SPDX-License-Identifier: Apache-2.0
"""The capabilities that the deploy files grant are what an agent needs, no more and no less."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.capabilities import TO_ATTACH
from agent.plan import remove_all, root_of
from tests.deploy.test_compose import SERVICES
from tests.lab.agents import SPOOLS

ROOT = Path(__file__).parents[2]
GRANTED = [name.lower() for name in SERVICES["agent"]["cap_add"]]
NOWHERE = "127.0.0.1:9"  # the discard port, where no broker listens

pytestmark = pytest.mark.kernel


def what_an_agent_says(interface: str, *flags: str, capabilities: list[str]) -> str:
    """All that an agent with no other capabilities says; it is stopped once it is ready."""
    chosen = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    agent = subprocess.Popen(
        [
            *("setpriv", "--no-new-privs", f"--inh-caps={chosen}", f"--bounding-set={chosen}"),
            *(sys.executable, "-m", "agent", f"--interface={interface}", f"--kafka={NOWHERE}"),
            *(f"--name={interface}", f"--spool={SPOOLS}", "--stop-timeout=0.1", *flags),
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in agent.stderr:
        lines.append(line)
        if "agent ready" in line:
            agent.terminate()
    agent.stderr.close()
    agent.wait()
    # What Kafka has not got is kept for the next agent, and there is none.
    remove_all(root_of(interface))
    shutil.rmtree(SPOOLS / interface, ignore_errors=True)
    return "".join(lines)


@pytest.mark.parametrize(
    "flags", [["--hook=tc"], ["--hook=xdp"], ["--tc=clsact"], ["--buffer=perf"]], ids=str
)
def test_an_agent_runs_with_what_is_granted(wire, flags):
    said = what_an_agent_says(wire.near.name, *flags, capabilities=GRANTED)

    assert "agent ready" in said


def test_an_agent_keeps_what_is_granted_and_so_does_a_privileged_one():
    assert {name.upper() for name in GRANTED} == {name.removeprefix("CAP_") for name in TO_ATTACH}


@pytest.mark.parametrize("missing", GRANTED)
def test_nothing_is_granted_that_it_could_do_without(wire, missing):
    rest = [name for name in GRANTED if name != missing]

    said = what_an_agent_says(wire.near.name, capabilities=rest)

    assert "agent ready" not in said
    # One line that says what was refused, and no traceback.
    assert said.startswith("agent: ")
    assert said.count("\n") == 1
