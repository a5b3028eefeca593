# SPDX-License-Identifier: Apache-2.0
"""The recipes of the images keep the rules for such recipes, and copy what they need."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = {name: ROOT / f"deploy/docker/{name}.Dockerfile" for name in ("agent", "consumer")}
RECIPES = {name: path.read_text() for name, path in DOCKERFILES.items()}

for_each = pytest.mark.parametrize("name", DOCKERFILES)


@for_each
def test_hadolint_has_nothing_to_say(name):
    hadolint = Path(sys.executable).with_name("hadolint")

    checked = subprocess.run(
        [hadolint, "--failure-threshold", "style", DOCKERFILES[name]],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.stdout + checked.stderr == ""
    assert checked.returncode == 0


def test_both_stand_on_one_pinned_base():
    bases = {
        base
        for recipe in RECIPES.values()
        for base in re.findall(r"^FROM (\S+)", recipe, re.MULTILINE)
    }

    (base,) = bases
    assert re.fullmatch(r"debian:\d+\.\d+-slim", base)


@for_each
def test_python_packages_come_by_hash(name):
    installs = re.findall(r"pip install (?:.*\\\n)*.*", RECIPES[name])

    assert installs
    assert all("--require-hashes" in one or "--editable ." in one for one in installs)


def test_the_consumer_is_nobody():
    assert re.search(r"^USER \d+:\d+$", RECIPES["consumer"], re.MULTILINE)


def test_what_is_copied_is_there_and_not_ignored():
    copied = {
        name
        for recipe in RECIPES.values()
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", recipe, re.MULTILINE)
        for name in line.split()
    }
    lines = (ROOT / ".dockerignore").read_text().splitlines()

    kept = {line[1:] for line in lines if line.startswith("!")}

    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


def test_the_images_hold_the_packages_that_setup_installs():
    setup = (ROOT / "deploy/setup.sh").read_text()
    runtime = re.search(r"RUNTIME_PACKAGES=\(([^)]*)\)", setup)[1].split()
    last_stage = RECIPES["agent"].rpartition("\nFROM ")[2]

    installed = re.search(r"apt-get install [^\\]*?recommends ([^\\]*)\\", last_stage)[1].split()

    # It has its venv already, and neither the demo's commands nor setpriv.
    assert set(installed) <= set(runtime)
    assert {"libbpf1", "python3", "python3-bpfcc"} <= set(installed)
