# SPDX-License-Identifier: Apache-2.0
"""A virtual link of our own: one end here, as on a container host, the other in a namespace.

Names carry our process id and addresses are of 198.18.0.0/15, which is set aside for benchmarks
(RFC 2544).  No other link is touched.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

ROOT = Path(__file__).parents[1]
_numbers = count()


@dataclass(frozen=True, slots=True)
class Link:
    """Our end's name, number and address, and the namespace and address of the other end."""

    name: str
    ifindex: int
    address: str
    namespace: str
    far: str  # the other end's name
    peer: str  # and its address

    def start_with(self, *arguments: str) -> subprocess.Popen[str]:
        """`python ARGUMENTS...` at the other end."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, sys.executable, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *module: str) -> subprocess.Popen[str]:
        """`python -m MODULE...` at the other end, which takes lines and answers with lines."""
        return self.start_with("-m", *module)

    def run(self, *command: str) -> str:
        """What *command* prints at the other end."""
        inside = ["ip", "netns", "exec", self.namespace, *command]
        return subprocess.run(inside, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def link() -> Iterator[Link]:
    """A link that is up; gone at the end, whatever happens."""
    number = (os.getpid() + next(_numbers)) % 16384
    namespace, here, there = f"hlb{os.getpid()}-{number}", f"hlb{number}a", f"hlb{number}b"
    network = f"198.18.{number >> 6}."
    ours, theirs = (f"{network}{(number & 63) * 4 + at}" for at in (1, 2))
    ip(f"netns add {namespace}")
    try:
        ip(f"link add {here} type veth peer name {there} netns {namespace}")
        # Without link-local addresses the kernel sends nothing by itself.
        ip(f"link set {here} addrgenmode none up")
        ip(f"addr add {ours}/30 dev {here}")
        ip(f"-n {namespace} link set {there} addrgenmode none up")
        ip(f"-n {namespace} addr add {theirs}/30 dev {there}")
        yield Link(here, socket.if_nametoindex(here), ours, namespace, there, theirs)
    finally:
        ip(f"netns del {namespace}")


def ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True)
