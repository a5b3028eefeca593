# SPDX-License-Identifier: Apache-2.0
"""A few seconds of what `make fuzz` does for as long as it is told to."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 3


@pytest.mark.skipif(not find_spec("atheris"), reason="atheris is missing; run: make dev")
@pytest.mark.parametrize("target", ["record", "batches", "spool", "configuration", "rules"])
def test_nothing_breaks_within_seconds(target, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", target, f"--seconds={SECONDS}"],
        cwd=ROOT,
        env={"PYTHONPATH": ":".join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done " in done.stderr
