# SPDX-License-Identifier: Apache-2.0
"""An agent gives way to what else runs on its node, and is light while nothing happens."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.pace import POLL_SECONDS, QUIET_SECONDS, pause
from tests.lab.agents import agent
from tests.lab.links import link


def its_own(code: str) -> str:
    """What a process of its own prints, since nobody gets back what was given up."""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return told.stdout.strip()


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("flags", "expected"),
    [((), (os.SCHED_BATCH, 10)), (("--nice", "0"), (os.SCHED_OTHER, 0))],
    ids=["by default", "told not to"],
)
def test_an_agent_gives_way_unless_it_is_told_not_to(flags, expected, lab):
    with link() as one, agent("--interface", one.near.name, *flags) as started:
        found = os.sched_getscheduler(started.pid), os.getpriority(os.PRIO_PROCESS, started.pid)

    assert found == expected


@pytest.mark.kernel
def test_an_agent_without_traffic_wakes_up_less_often_than_it_looks_at_its_usual_pace(lab):
    with link() as one, agent("--interface", one.near.name) as quiet:
        one.quiet(seconds=1.0)
        before = wake_ups(quiet.pid)
        time.sleep(2)
        found = wake_ups(quiet.pid) - before

    assert found < 2 / POLL_SECONDS


def wake_ups(pid: int) -> int:
    """How often the agent's own thread has gone to sleep."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def test_who_was_started_to_give_way_further_still_does():
    code = "import os; from agent.scheduling import give_way; os.nice(15); give_way(10); print(os.nice(0))"

    assert its_own(code) == "15"


def test_who_was_started_under_another_policy_keeps_it():
    code = """if True:
        import os
        from agent.scheduling import give_way
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        give_way(10)
        print(os.sched_getscheduler(0) == os.SCHED_IDLE, os.nice(0))
    """

    assert its_own(code) == "True 0"


def test_the_threads_of_an_agent_give_way_as_well():
    code = """if True:
        import os, threading
        from agent.scheduling import give_way
        give_way(10)
        told = lambda: print(os.sched_getscheduler(0) == os.SCHED_BATCH, os.nice(0))
        threading.Thread(target=told).start()
    """

    assert its_own(code) == "True 10"


def test_what_an_agent_is_made_of_does_not_bring_pyroute2_in():
    code = "import sys, agent.cli; print('pyroute2' in sys.modules)"

    assert its_own(code) == "False"


@pytest.mark.parametrize(
    ("is_quiet", "until_due", "expected"),
    [
        (False, 1.0, POLL_SECONDS),
        (True, 1.0, QUIET_SECONDS),
        (True, 0.03, 0.03),
        (True, 0.0, POLL_SECONDS),
    ],
)
def test_a_quiet_agent_looks_less_often_but_ends_its_intervals_in_time(
    is_quiet, until_due, expected
):
    assert pause(is_quiet=is_quiet, until_due=until_due) == expected
