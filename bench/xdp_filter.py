# SPDX-License-Identifier: Apache-2.0
"""xdp-filter of xdp-tools with a list of sources that it drops, on an interface of our own."""

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from agent import libbpf
from bench.ends import End, within
from bench.programs import CPUS
from bench.ruled import DISTANCE, FIRST

# Entries of its map of addresses, which its source says and no option changes.
MOST = 10_000
_PINS = Path("/sys/fs/bpf/xdp-filter")
_DISPATCHERS = Path("/sys/fs/bpf/xdp")  # libxdp makes it, and leaves it
_SRC = 1  # MAP_FLAG_SRC in its common_kern_user.h: the address is a source


def why_not() -> str:
    """Why it cannot be measured here; empty where it can."""
    if shutil.which("xdp-filter") is None:
        return "xdp-filter is not installed: apt-get install xdp-tools"
    if _PINS.exists():
        return f"xdp-filter is in use here: {_PINS} exists"
    return ""


@contextmanager
def xdp_filter(end: End, count: int) -> Iterator[int]:
    """A descriptor of its program, which drops the first *count* sources of a list at that end.

    It is loaded with the features that need least for addresses: `ipv4`.
    """
    had_folder = _DISPATCHERS.exists()
    with within(end.namespace):
        _run("load", "--mode", "native", "--features", "ipv4", end.name)
    try:
        keys = (FIRST + DISTANCE * np.arange(count)).astype(">u4").view("V4")
        # A value for each CPU, each of eight bytes.
        values = np.full((count, CPUS), _SRC, np.uint64)
        with libbpf.opened(_PINS / "filter_ipv4") as fd:
            libbpf.update_elements(fd, keys, values)
        fd = opened_by_id(_program_at(end))
        yield fd
        os.close(fd)
    finally:
        with within(end.namespace):
            _run("unload", end.name)
        if not had_folder and _DISPATCHERS.exists():
            _DISPATCHERS.rmdir()


def _program_at(end: End) -> int:
    """Which XDP program is attached there."""
    command = ["ip", "-n", end.namespace, "-json", "-details", "link", "show", end.name]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return int(json.loads(text)[0]["xdp"]["prog"]["id"])


def opened_by_id(number: int) -> int:
    fd: int = ctypes.CDLL("libbpf.so.1").bpf_prog_get_fd_by_id(number)
    if fd < 0:
        raise OSError(-fd, f"bpf_prog_get_fd_by_id: {os.strerror(-fd)}", f"program {number}")
    return fd


def _run(*arguments: str) -> None:
    subprocess.run(["xdp-filter", *arguments], check=True, stdout=subprocess.DEVNULL)
