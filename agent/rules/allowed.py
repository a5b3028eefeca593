# SPDX-License-Identifier: Apache-2.0
"""What no rule on this node may cut off, found out: who manages it, and what the agent needs.

The SSH sessions of this moment, the brokers that Kafka names, and what the operator adds with
`--never-drop`.  It is looked at again while there are rules, since sessions and brokers change.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import numpy as np
from numpy.typing import NDArray

from agent.addresses import local_addresses
from agent.processes import find_holders
from agent.sockdiag import Listed, list_sockets
from agent.tuples import TCP, has_remote, local_ports, protocols
from schemas.rules.allow import Address, Allowed, Endpoint
from schemas.rules.intervals import Network
from service.options import ConfigError, host_and_port

log = logging.getLogger(__name__)

_SSH_PORT = 22
_SSH_SERVER = b"sshd"
_LOOK_SECONDS = 2.0
_MAPPED = 0xFFFF


def never_dropped(texts: Iterable[str]) -> tuple[tuple[Network, ...], tuple[tuple[str, int], ...]]:
    """The networks, and the hosts with ports, that the option `never_drop` names.

    Raises:
        ConfigError: one is neither.
    """
    networks: list[Network] = []
    ends: list[tuple[str, int]] = []
    for text in texts:
        try:
            networks.append(ip_network(text, strict=False))
        except ValueError:
            try:
                ends.append(host_and_port(text, "never_drop"))
            except ConfigError:
                raise ConfigError(
                    f"never_drop is {text!r}; write a network such as 10.1.0.0/16, or HOST:PORT"
                ) from None
    return tuple(networks), tuple(ends)


def ssh_ports() -> frozenset[int]:
    """The ports on which SSH servers listen here, and 22; needs to look at their processes."""
    ports = {_SSH_PORT}
    try:
        listed = list_sockets()
        holders = find_holders(time.monotonic() + _LOOK_SECONDS)
    except OSError as error:
        log.warning("ports of SSH servers are not known", extra={"reason": str(error)})
        return frozenset(ports)
    _, commands = holders.of(listed.inode)
    is_server = (commands == _SSH_SERVER) & _is_tcp(listed) & ~has_remote(listed.keys)
    return frozenset(ports | set(local_ports(listed.keys[is_server]).tolist()))


class AllowList:
    """Finds out what is allowed; blocks while it does."""

    def __init__(
        self,
        never_drop: Iterable[str],
        brokers: Callable[[], Iterable[tuple[str, int]]],
        ports: frozenset[int],
    ) -> None:
        """*brokers* names them by host and port, as far as is known; *ports* are those of SSH."""
        self._networks, self._ends = never_dropped(never_drop)
        self._brokers = brokers
        self._ports = ports
        # What a name meant stays allowed while nobody can be asked what it means.
        self._addresses: dict[str, tuple[Address, ...]] = {}

    def look(self) -> Allowed:
        """What is allowed now."""
        return Allowed(
            networks=self._networks,
            brokers=self._endpoints(self._brokers()),
            databases=self._endpoints(self._ends),
            ssh_peers=self._ssh_peers(),
            local=_local_networks(),
        )

    def _endpoints(self, ends: Iterable[tuple[str, int]]) -> tuple[Endpoint, ...]:
        found = [(address, port) for host, port in ends for address in self._resolved(host)]
        return tuple(sorted(set(found), key=str))

    def _resolved(self, host: str) -> tuple[Address, ...]:
        try:
            answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            if host not in self._addresses:
                log.warning(
                    "a host that no rule may cut off has no address",
                    extra={"host": host, "reason": str(error)},
                )
            return self._addresses.get(host, ())
        found = tuple(ip_address(str(where[0]).partition("%")[0]) for *_, where in answers)
        self._addresses[host] = found
        return found

    def _ssh_peers(self) -> tuple[Endpoint, ...]:
        try:
            listed = list_sockets()
        except OSError as error:
            log.warning("SSH sessions are not known", extra={"reason": str(error)})
            return ()
        keys = listed.keys[_is_tcp(listed) & has_remote(listed.keys)]
        remote = [_address(bytes(words)) for words in keys[:, 2:4].copy().view("V16")[:, 0]]
        pairs = zip(remote, local_ports(keys).tolist(), strict=True)
        return tuple(sorted({pair for pair in pairs if pair[1] in self._ports}, key=str))


def _is_tcp(listed: Listed) -> NDArray[np.bool_]:
    return np.asarray(protocols(listed.keys) == TCP)


def _local_networks() -> tuple[Network, ...]:
    try:
        return tuple(ip_network(_address(bytes(one))) for one in local_addresses())
    except OSError as error:
        log.warning("this node's addresses are not known", extra={"reason": str(error)})
        return ()


def _address(mapped: bytes) -> Address:
    number = int.from_bytes(mapped, "big")
    return IPv4Address(number & 0xFFFFFFFF) if number >> 32 == _MAPPED else IPv6Address(number)
