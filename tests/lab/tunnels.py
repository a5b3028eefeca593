# SPDX-License-Identifier: Apache-2.0
"""Links within links."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.lab.links import End, Link, unique_name

_PORT = "4789"  # RFC 7348


@contextmanager
def vxlan(link: Link) -> Iterator[Link]:
    """A VXLAN tunnel over *link*, whose ends have addresses of their own."""
    name = unique_name()
    near = replace(link.near, name=f"{name}a", ipv4="198.18.250.1")
    far = replace(link.far, name=f"{name}b", ipv4="198.18.250.2")
    _make(near, link.near, link.far)
    try:
        _make(far, link.far, link.near)
        yield Link(near, far)
    finally:
        near.namespace.run("ip", "link", "del", near.name)


def _make(end: End, below: End, other: End) -> None:
    run = end.namespace.run
    run(
        *("ip", "link", "add", end.name, "type", "vxlan", "id", "7", "dstport", _PORT),
        *("local", below.ipv4, "remote", other.ipv4, "dev", below.name),
    )
    run("sysctl", "-qw", f"net.ipv6.conf.{end.name}.disable_ipv6=1")
    run("ip", "address", "add", f"{end.ipv4}/30", "dev", end.name)
    run("ip", "link", "set", end.name, "up")
