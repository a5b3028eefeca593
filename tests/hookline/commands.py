# SPDX-License-Identifier: Apache-2.0
"""`hookline` commands one after the other in one process: `python -m tests.hookline.commands`.

Each is as it is in a process of its own: words and environment in, output and exit code out.  But
Python and the engine are loaded once, which takes 0.5 and 2 s of CPU.
"""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Self
from unittest import mock

from hookline.cli import main

ROOT = Path(__file__).parents[2]


class Commands:
    """The process; ended with the block."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hookline.commands"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(
        self, *words: str, columns: int = 100, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": str(columns), **environment}
        self._process.stdin.write(json.dumps([words, environment]) + "\n")
        self._process.stdin.flush()
        code, said, complained = json.loads(self._process.stdout.readline())
        return subprocess.CompletedProcess(words, code, said, complained)


def _serve() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # Whatever is not said through Python must not be taken for an answer.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for order in sys.stdin:
        words, environment = json.loads(order)
        with mock.patch.dict(os.environ, environment, clear=True):
            answers.write(json.dumps(_said(words)) + "\n")
        answers.flush()


def _said(words: list[str]) -> tuple[int, str, str]:
    """The exit code, and what it says on both its outputs; bytes that are no text as surrogates."""
    said, complained = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with redirect_stdout(said), redirect_stderr(complained):
        try:
            code = main(words)
        except SystemExit as ended:
            code = ended.code
    said.flush()
    text = said.buffer.getvalue().decode(errors="surrogateescape")
    return code, text, complained.getvalue()


if __name__ == "__main__":
    _serve()
