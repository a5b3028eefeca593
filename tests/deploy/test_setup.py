# SPDX-License-Identifier: Apache-2.0
"""Setup does nothing twice, and when it cannot go on it says why in one line.

The refusals run in a copy of deploy/ with stand-ins for the commands that describe the machine,
because no one machine is at the same time too old, offline and not Debian.
"""

import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = [ROOT / "requirements.lock", ROOT / "requirements-dev.lock"]
NOBODY = 65534

NOTHING_IS_INSTALLED = "exit 1"


class Machine:
    """A folder with deploy/ in it, and a PATH whose first entry we decide."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commands = folder / "commands"
        self.commands.mkdir()
        shutil.copytree(ROOT / "deploy", folder / "deploy")
        for lock in (*LOCKS, ROOT / "pyproject.toml"):
            shutil.copy(lock, folder)

    def answer(self, command: str, script: str) -> None:
        path = self.commands / command
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def borrow(self, *commands: str) -> None:
        for command in commands:
            (self.commands / command).symlink_to(shutil.which(command))

    def setup(
        self, path: str, *arguments: str, user: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", str(self.folder / "deploy" / "setup.sh"), *arguments],
            env={"PATH": f"{self.commands}:{path}"},
            user=user,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Not below tmp_path, which only its owner may enter: one test runs as somebody else.
    with tempfile.TemporaryDirectory(prefix="hookline-setup-") as folder:
        Path(folder).chmod(0o777)
        yield Machine(Path(folder))


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: sudo make test")


def test_a_second_setup_says_and_does_nothing():
    # The first one is what `make test` ran before us.
    log = (ROOT / ".setup.log").read_text()

    again = subprocess.run(
        [ROOT / "deploy" / "setup.sh", "--dev"], capture_output=True, text=True, check=True
    )

    assert again.stdout + again.stderr == ""
    assert (ROOT / ".setup.log").read_text() == log


def test_an_old_kernel_is_named(machine):
    machine.answer("uname", "echo 5.9.16-generic")

    refused = machine.setup("/usr/bin:/bin")

    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr == (
        "setup: kernel 5.9.16-generic is too old: hookline needs 5.10 or newer\n"
    )


def test_another_distribution_is_told_what_to_install(machine):
    machine.borrow("bash", "cut", "dirname", "flock", "grep", "java", "sha256sum", "uname")

    refused = machine.setup("")

    assert refused.returncode == 1
    assert refused.stderr == (
        "setup: apt-get not found: setup knows Debian and Ubuntu only, install by hand: "
        "ca-certificates iproute2 iputils-ping libbpf1 python3 python3-bpfcc python3-venv maven\n"
    )


@needs_root
def test_somebody_who_may_not_install_is_told_so(machine):
    machine.answer("dpkg-query", NOTHING_IS_INSTALLED)

    refused = machine.setup("/usr/bin:/bin", user=NOBODY)

    assert refused.returncode == 1
    assert refused.stderr.startswith("setup: must be root to install: ca-certificates ")
    assert refused.stderr.count("\n") == 1


@needs_root
def test_a_missing_network_is_told_in_one_line_and_the_noise_goes_to_a_file(machine):
    machine.answer("dpkg-query", NOTHING_IS_INSTALLED)
    machine.answer("apt-get", "echo 'E: Temporary failure resolving' >&2; exit 100")

    refused = machine.setup("/usr/bin:/bin")

    log = machine.folder / ".setup.log"
    assert refused.returncode == 1
    assert refused.stderr == (
        "setup: fetching Debian's lists of packages (is the network up?) failed; "
        f"see the end of {log}\n"
    )
    assert "Temporary failure resolving" in log.read_text()


@needs_root
def test_what_is_measured_beside_ours_may_be_missing(machine):
    machine.answer("dpkg-query", 'shift 3; printf "installed %s\\n" "$@" | grep -v -e wrk -e nginx')
    machine.answer("apt-get", '[ "$1" = update ]')
    machine.answer("apt-cache", '[ "$2" != wrk ]')
    machine.answer("mvn", "exit 1")
    (machine.folder / ".venv").symlink_to(machine.folder)

    ended = machine.setup("/usr/bin:/bin", "--bench")

    # It went on to the next step.
    assert "Kafka's jars" in ended.stderr
    assert "setup: this distribution has no wrk: what is measured beside it is left out" in (
        ended.stderr
    )
    assert "setup: going on without nginx-light: what is measured beside them is left out" in (
        ended.stderr
    )


def test_an_environment_that_is_shared_by_a_link_is_left_as_it_is(machine, tmp_path):
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "of-another-checkout").touch()
    (machine.folder / ".venv").symlink_to(tmp_path / "venv")
    machine.answer("dpkg-query", 'shift 3; printf "installed %s\\n" "$@"')
    machine.answer("mvn", "exit 1")

    ended = machine.setup("/usr/bin:/bin")

    assert "Kafka's jars" in ended.stderr
    assert [path.name for path in (tmp_path / "venv").iterdir()] == ["of-another-checkout"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_content_and_names_no_place(lock):
    text = lock.read_text()

    assert "://" not in text
    requirements = re.findall(r"^[\w-]+==\S+ \\\n(.*)", text, re.MULTILINE)
    assert len(requirements) == len(re.findall(r"^\w", text, re.MULTILINE))
    assert all("--hash=sha256:" in first_line for first_line in requirements)


def test_the_locks_hold_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]

    locked = re.findall(r"^([\w-]+)==", LOCKS[1].read_text(), re.MULTILINE)

    assert {re.split(r"[>=]", name)[0].lower() for name in asked} <= set(locked)


def test_both_locks_agree_on_every_version():
    runtime, dev = (set(re.findall(r"^\S+==\S+", lock.read_text(), re.MULTILINE)) for lock in LOCKS)

    assert runtime
    assert runtime <= dev
