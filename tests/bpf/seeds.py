# SPDX-License-Identifier: Apache-2.0
"""How many frames are generated, and which.

HOOKLINE_FRAMES asks for more of them, HOOKLINE_SEED for those of another run.
"""

import os
import secrets

import pytest

FRAMES = int(os.environ.get("HOOKLINE_FRAMES", "10000"))
SEED = int(os.environ.get("HOOKLINE_SEED", str(secrets.randbits(32))))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Say with which numbers a test that failed does so again."""
    print(f"HOOKLINE_SEED={SEED} HOOKLINE_FRAMES={FRAMES}")
