# SPDX-License-Identifier: Apache-2.0
"""What no rule cuts off is found out: sessions, brokers, and what the operator names."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

import pytest

from agent.rules.allowed import AllowList, never_dropped, ssh_ports
from schemas.rules.allow import conflicts
from schemas.rules.rule import Rule
from service.options import ConfigError
from tests.lab.waiting import wait_until

HERE = ip_address("127.0.0.1")

# Called as the kernel calls an SSH server, and listening.
_SERVER = """
import ctypes, socket, sys
ctypes.CDLL(None).prctl(15, b"sshd", 0, 0, 0)
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
peer, _ = server.accept()
sys.stdin.read()
"""


@contextmanager
def an_ssh_server() -> Iterator[int]:
    """Its port."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline())
    finally:
        server.kill()
        server.communicate()


@pytest.mark.kernel
def test_the_session_somebody_has_come_in_by_is_allowed_wherever_its_server_listens():
    with an_ssh_server() as port:
        ports = ssh_ports()
        assert {22, port} <= ports
        allow_list = AllowList((), list, ports)
        assert (HERE, port) not in allow_list.look().ssh_peers
        with socket.create_connection(("127.0.0.1", port)):
            # Our end may be connected before the server's has our answer.
            wait_until(lambda: (HERE, port) in allow_list.look().ssh_peers, "the session", 10)
            allowed = allow_list.look()
            rule = Rule(name="r", match=f"tcp dst port {port}")
            assert f"SSH from 127.0.0.1 to port {port}" in conflicts(rule, allowed)


def test_every_address_of_a_broker_is_allowed_and_stays_so_while_nobody_can_be_asked(monkeypatch):
    allow_list = AllowList((), lambda: [("localhost", 9092)], frozenset())
    assert (HERE, 9092) in allow_list.look().brokers

    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror("no name server")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    assert (HERE, 9092) in allow_list.look().brokers


def test_a_host_that_has_no_address_is_told_and_no_reason_to_stop(caplog):
    allow_list = AllowList((), lambda: [("nobody.invalid", 9092)], frozenset())
    assert allow_list.look().brokers == ()
    assert "nobody.invalid" in caplog.records[0].host


def test_an_operator_names_networks_and_servers():
    allow_list = AllowList(["10.1.0.0/16", "2001:db8::/32", "127.0.0.1:8123"], list, frozenset())
    allowed = allow_list.look()
    assert allowed.networks == (ip_network("10.1.0.0/16"), ip_network("2001:db8::/32"))
    assert allowed.databases == ((HERE, 8123),)


def test_this_nodes_own_addresses_are_known():
    assert ip_network("127.0.0.1") in AllowList((), list, frozenset()).look().local


@pytest.mark.parametrize("text", ["", "nonsense", "10.0.0.0/33", "host:", "host:70000"])
def test_what_is_neither_is_refused_with_what_to_write(text):
    with pytest.raises(ConfigError, match=r"write a network such as 10\.1\.0\.0/16, or HOST:PORT"):
        never_dropped([text])
