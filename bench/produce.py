# SPDX-License-Identifier: Apache-2.0
"""Run a pinned program on the first CPU as fast as it goes, until standard input ends.

python -m bench.produce PROGRAM
"""

import os
import sys
from pathlib import Path

from agent import libbpf
from bench.frames import FRAMES

RUN = 10_000


def produce(program: Path) -> None:
    os.sched_setaffinity(0, {0})
    fd, frame = libbpf.open_pinned(program), FRAMES["UDP 64 B"]
    os.set_blocking(0, False)
    print("ready", flush=True)
    while sys.stdin.buffer.raw.read(1) is None:
        libbpf.run_program(fd, frame, repeat=RUN)


if __name__ == "__main__":
    produce(Path(sys.argv[1]))
