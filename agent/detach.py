# SPDX-License-Identifier: Apache-2.0
"""Detach what this agent attached, and nothing else."""

from collections.abc import Mapping
from contextlib import suppress

from agent import libbpf
from agent.plan import Pins


def detach(pins: Pins, clsact: Mapping[int, bool]) -> None:
    """Detach everything that was attached, and unpin it.

    *clsact* maps the interfaces that have our filters to whether we made their qdisc.  Programs
    that run on another CPU at this moment still finish; wait a tick before the last reading.
    """
    for path in pins.links():
        with suppress(FileNotFoundError):
            libbpf.detach_link(path)
    if clsact:
        from agent import netlink  # noqa: PLC0415 - pyroute2 takes 10 MB, and few need it

        for ifindex, was_created in clsact.items():
            netlink.detach(ifindex, "ingress", owner=pins.owner)
            netlink.detach(ifindex, "egress", owner=pins.owner)
            if was_created:
                netlink.remove_clsact_if_unused(ifindex)
