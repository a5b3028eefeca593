# SPDX-License-Identifier: Apache-2.0
"""The programs that the pages hand out find a flood in a real Kafka, in which an agent's batches are."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.consumer.alerts.scenes import SYN, WHOLE, batch, many
from tests.consumer.process import FLOWS, create_topics, publish
from tests.docs.pages import ROOT

pytestmark = pytest.mark.services

EXAMPLES = ROOT / "docs/examples"
PACKAGES = ("kafkajs", "@msgpack/msgpack", "fzstd")
MODULES = Path(os.environ.get("NODE_MODULES", ROOT / "node_modules"))
DEADLINE_S = 30.0


def flood(target, *, count, flags=SYN):
    return batch(
        rows=count,
        begin_s=int(time.time()),
        src_addr=many(np.arange(count), "10.0.0.0"),
        dst_addr=target,
        dst_port=443,
        tcp_flags=flags,
    )


async def first_line(kafka: str, command: Sequence[str], target: str) -> str:
    """What a program says of a flood on *target*, beside one that is none."""
    await create_topics(kafka, [FLOWS], partitions=1)
    program = subprocess.Popen(
        [*command, kafka, f"group-of-{target}"], stdout=subprocess.PIPE, text=True
    )
    try:
        line = asyncio.create_task(asyncio.to_thread(program.stdout.readline))
        deadline = time.monotonic() + DEADLINE_S
        while not line.done() and time.monotonic() < deadline:
            # It sees what comes once it has joined its group.
            await publish(
                kafka,
                flood("192.0.2.1", count=2000, flags=WHOLE),
                flood("192.0.2.2", count=99),
                flood(target, count=2000),
            )
            await asyncio.wait({line}, timeout=1.0)
    finally:
        program.terminate()
        program.wait()
        program.stdout.close()
    return await line


async def test_the_example_in_python_finds_a_flood(kafka):
    command = [sys.executable, str(EXAMPLES / "alert_consumer.py")]

    assert await first_line(kafka, command, "192.0.2.77") == "SYN flood on 192.0.2.77\n"


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js 20 or later: node")
@pytest.mark.skipif(
    not all((MODULES / name).is_dir() for name in PACKAGES),
    reason=f"needs npm packages: npm install --prefix DIR {' '.join(PACKAGES)}, and"
    " NODE_MODULES=DIR/node_modules in the environment",
)
async def test_the_example_in_javascript_finds_a_flood(kafka, tmp_path):
    # Node looks for packages beside the program.
    program = shutil.copy(EXAMPLES / "alert_consumer.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES)

    line = await first_line(kafka, ["node", program], "2001:db8::77")

    assert line == "SYN flood on 2001:0db8:0000:0000:0000:0000:0000:0077\n"
