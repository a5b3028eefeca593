# SPDX-License-Identifier: Apache-2.0
"""The demo finds what its hosts did, and leaves the machine as it was."""

import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from hookline.demo.hosts import HOSTS, SWITCH
from tests.hookline.ups import hookline
from tests.lab.cgroups import cgroup2

pytestmark = [pytest.mark.kernel, pytest.mark.services]

NAMESPACES = {SWITCH, *(host.namespace for host in HOSTS)}


def existing_namespaces() -> set[str]:
    lines = subprocess.check_output(["ip", "netns", "list"], text=True).splitlines()
    return {line.split()[0] for line in lines if line} & NAMESPACES


@pytest.fixture(scope="module")
def shown() -> str:
    """What a short demo prints."""
    done = hookline("demo", "--for=8s")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answer(shown: str, question: str) -> str:
    """What follows *question*, up to the next one."""
    _, _, rest = shown.partition(question)
    return re.split(r"\n[A-Z][^\n]*\?\n", rest)[0]


def test_the_port_scan_is_found(shown):
    found = answer(shown, "Does anybody scan ports?")

    assert re.search(r"198\.51\.100\.30\s+.*198\.51\.100\.10\s+1000\s", found)


def test_names_pages_pings_and_the_bulk_transfer_are_found(shown):
    assert re.search(r"2001:db8::10\s+2001:db8::20\s+9000\s", answer(shown, "Who sends most"))
    assert re.search(r"198\.51\.100\.30\s+\d", answer(shown, "to the web server"))
    assert re.search(r"198\.51\.100\.30\s+\S+\.\S+\s+\d", answer(shown, "Who asks for which names"))
    assert "2001:db8::30" in answer(shown, "Who pings whom")


@pytest.mark.skipif(not cgroup2().is_dir(), reason="no cgroup2; mount -t cgroup2 none DIR")
def test_programs_are_found_with_their_roles(shown):
    found = answer(shown, "Which programs talk over TCP")

    assert re.search(r"python\S*\s+server\s+\d", found)
    assert re.search(r"python\S*\s+client\s+\d", found)


def test_the_books_balance_at_every_port_and_direction(shown):
    found = answer(shown, "Do the books balance")

    differences = re.findall(r"^to-\w+\s+\w+gress\s.*\s(-?\d+)\s*$", found, re.MULTILINE)
    assert len(differences) == 6
    # A neighbour probe that falls between attaching and reading a counter makes one.
    assert sum(abs(int(difference)) for difference in differences) <= 1


def test_every_answer_stands_below_the_sql_that_gives_it(shown):
    assert shown.count("\nSELECT ") == shown.count("?\n") == 7


def test_nothing_is_left_behind(shown):
    assert not existing_namespaces()
    assert not list(Path(tempfile.gettempdir()).glob("hookline-demo-*"))


def test_a_second_demo_is_refused_and_does_no_harm():
    namespace = HOSTS[0].namespace
    subprocess.check_call(["ip", "netns", "add", namespace])
    try:
        refused = hookline("demo", "--for=1s")
        left = existing_namespaces()
    finally:
        subprocess.check_call(["ip", "netns", "delete", namespace])

    assert refused.returncode == 1
    assert f"namespace {namespace} exists" in refused.stderr
    assert left == {namespace}
