# SPDX-License-Identifier: Apache-2.0
"""Detach what an agent that is no more had attached, and nothing else."""

from contextlib import suppress

from agent import libbpf
from agent.plan import Pins


def detach(pins: Pins) -> None:
    """Detach everything that is pinned, in whatever network namespace, and unpin it.

    Filters of kernels without tcx have no pin; the next agent of the name replaces them.
    """
    for path in pins.links():
        with suppress(FileNotFoundError):
            libbpf.detach_link(path)
