# SPDX-License-Identifier: Apache-2.0
"""Where processes that a test starts find what was compiled before, and whether they can compile."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def keeping_in(folder: Path) -> Iterator[Path]:
    """What is compiled meanwhile is kept in *folder*, and looked for there only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CACHE_DIRECTORY", str(folder))
        yield folder


@contextmanager
def without_compiler(folder: Path) -> Iterator[None]:
    """Processes that are started meanwhile cannot import bcc; *folder* is for what keeps them."""
    package = folder / "bcc"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text('raise ImportError("not in this test")\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield
