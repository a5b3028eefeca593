# SPDX-License-Identifier: Apache-2.0
"""Which sockets there are, and which process has them open, as the kernel lists both."""

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from agent.processes import find_holders
from agent.sockdiag import list_sockets
from agent.tuples import UDP
from tests.agent.ends import key


def listed_keys() -> dict[bytes, int]:
    found = list_sockets()
    return dict(zip([one.tobytes() for one in found.keys], found.inode.tolist(), strict=True))


@pytest.mark.parametrize(
    ("family", "home"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_every_socket_of_this_namespace_is_listed(family, home):
    with ExitStack() as stack:
        server, datagrams = (
            stack.enter_context(socket.socket(family, kind))
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        )
        server.bind((home, 0))
        server.listen()
        datagrams.bind(("", 0))
        client = stack.enter_context(socket.create_connection(server.getsockname()[:2]))
        accepted = stack.enter_context(server.accept()[0])
        ends = client.getsockname()[:2], server.getsockname()[:2]
        anywhere = "0.0.0.0" if family == socket.AF_INET else "::"
        expected = {
            key(ends[1]).tobytes(): server,
            key(*ends).tobytes(): client,
            key(*reversed(ends)).tobytes(): accepted,
            key((anywhere, datagrams.getsockname()[1]), protocol=UDP).tobytes(): datagrams,
        }
        inodes = {one: os.fstat(sock.fileno()).st_ino for one, sock in expected.items()}
        found = listed_keys()

        assert {one: found.get(one) for one in inodes} == inodes


def test_open_files_tell_which_process_has_a_socket():
    with socket.socket() as ours:
        inode = np.array([os.fstat(ours.fileno()).st_ino, 1], np.uint64)
        holders = find_holders(time.monotonic() + 60)
        pid, command = holders.of(inode)

        assert pid.tolist() == [os.getpid(), 0]
        comm = Path("/proc/self/comm").read_bytes().strip()
        assert command.tolist() == [comm, b""]
        assert holders.is_whole


def test_looking_at_processes_ends_at_its_deadline():
    holders = find_holders(time.monotonic() - 1)

    assert not holders.is_whole
    assert holders.of(np.array([1], np.uint64))[0].tolist() == [0]


@pytest.mark.kernel
@pytest.mark.parametrize(
    "less",
    [("--reuid=65534", "--clear-groups"), ("--inh-caps=-all", "--bounding-set=-all")],
    ids=str,
)
def test_somebody_without_the_right_to_look_knows_how_many_are_hidden(less):
    program = (
        "import time; from agent.processes import find_holders;"
        "print(find_holders(time.monotonic() + 60).hidden)"
    )
    done = subprocess.run(
        ["setpriv", *less, sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
    )

    assert int(done.stdout) > 0
