# SPDX-License-Identifier: Apache-2.0
"""The recipe of the images keeps the rules for such recipes, and copies what it needs."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
RECIPE = DOCKERFILE.read_text()


def test_hadolint_has_nothing_to_say():
    hadolint = Path(sys.executable).with_name("hadolint")

    checked = subprocess.run(
        [hadolint, "--failure-threshold", "style", DOCKERFILE],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.stdout + checked.stderr == ""
    assert checked.returncode == 0


def test_every_base_is_pinned():
    bases = re.findall(r"^FROM (\S+) AS", RECIPE, re.MULTILINE)
    stages = re.findall(r"^FROM \S+ AS (\S+)$", RECIPE, re.MULTILINE)

    outside = [base for base in bases if base not in stages]

    assert outside
    assert all(re.fullmatch(r"debian:\d+\.\d+-slim", base) for base in outside)


def test_python_packages_come_by_hash():
    installs = re.findall(r"pip install (?:.*\\\n)*.*", RECIPE)

    assert installs
    assert all("--require-hashes" in one or "--editable ." in one for one in installs)


def test_the_consumer_is_nobody():
    consumer = RECIPE.partition(" AS consumer\n")[2]

    assert re.search(r"^USER \d+:\d+$", consumer, re.MULTILINE)


def test_what_is_copied_is_there_and_not_ignored():
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", RECIPE, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    lines = (ROOT / ".dockerignore").read_text().splitlines()

    kept = {line[1:] for line in lines if line.startswith("!")}

    assert names == kept
    assert all((ROOT / name).exists() for name in names)


def test_the_images_hold_the_packages_that_setup_installs():
    setup = (ROOT / "deploy/setup.sh").read_text()
    runtime = re.search(r"RUNTIME_PACKAGES=\(([^)]*)\)", setup)[1].split()
    agent = RECIPE.partition(" AS agent\n")[2].partition("\nFROM ")[0]

    installed = re.search(r"apt-get install [^\\]*?recommends ([^\\]*)\\", agent)[1].split()

    # It has its venv already, and neither the demo's commands nor setpriv.
    assert set(installed) <= set(runtime)
    assert {"libbpf1", "python3", "python3-bpfcc"} <= set(installed)
