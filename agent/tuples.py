# SPDX-License-Identifier: Apache-2.0
"""Five-tuples as arrays of keys: local end, remote end, protocol.

A key is five words, so that two are compared as numbers.  Its hash is keyed with a secret that is
drawn at each start: whoever chooses addresses and ports cannot choose keys that collide.  A hash
only finds; what it finds is compared word by word.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.keys import Hashing

Keys = NDArray[np.uint64]  # a row a key: local address, remote address (two words each), ports

TCP = 6
UDP = 17
UDP_LITE = 136
_WORDS = 5
_IPV4_PREFIX = np.frombuffer(b"\0\0\xff\xff\0\0\0\0", np.uint64)[0]  # ends ::ffff:0.0.0.0
_IPV6_LOOPBACK = np.frombuffer(b"\0\0\0\0\0\0\0\1", np.uint64)[0]  # ends ::1
_IPV4_LOOPBACK = 127
_LOW_HALF = np.uint64(0xFFFF_FFFF)
_PORT = np.uint64(0xFFFF)
_PROTOCOL = np.uint64(0xFF_0000_0000)
_REMOTE_SHIFT = np.uint64(16)
_PROTOCOL_SHIFT = np.uint64(32)

_HASHING = Hashing()


def keys_of(
    *,
    local_addr: NDArray[Any],
    local_port: NDArray[Any],
    remote_addr: NDArray[Any],
    remote_port: NDArray[Any],
    protocol: NDArray[Any],
) -> Keys:
    """The keys of sockets; addresses are 16 bytes in network order, ports are numbers.

    Without a remote port there is no remote end, however its address is spelled.
    """
    keys = np.empty((len(protocol), _WORDS), np.uint64)
    keys[:, 0:2] = _words_of(local_addr)
    keys[:, 2:4] = _words_of(remote_addr)
    keys[:, 2:4][np.asarray(remote_port) == 0] = 0
    keys[:, 4] = local_port
    keys[:, 4] |= np.asarray(remote_port, np.uint64) << _REMOTE_SHIFT
    keys[:, 4] |= np.asarray(protocol, np.uint64) << _PROTOCOL_SHIFT
    return keys


def _words_of(addresses: NDArray[Any]) -> NDArray[np.uint64]:
    words: NDArray[np.uint64] = np.ascontiguousarray(addresses).view(np.uint64).reshape(-1, 2)
    return words


def turned(keys: Keys) -> Keys:
    """The same as the other end has them."""
    other, ports = np.empty_like(keys), keys[:, 4]
    other[:, 0:2], other[:, 2:4] = keys[:, 2:4], keys[:, 0:2]
    other[:, 4] = ports & _PROTOCOL | ports >> _REMOTE_SHIFT & _PORT
    other[:, 4] |= (ports & _PORT) << _REMOTE_SHIFT
    return other


def without_remote(keys: Keys) -> Keys:
    """The keys of sockets without a peer at the same local ends."""
    alone = keys.copy()
    alone[:, 2:4] = 0
    alone[:, 4] &= _PROTOCOL | _PORT
    return alone


def at_any_address(keys: Keys, *, ipv4: bool) -> Keys:
    """The keys of sockets that are bound to any address instead, 0.0.0.0 or ::."""
    bound = keys.copy()
    bound[:, 0] = 0
    bound[:, 1] = _IPV4_PREFIX if ipv4 else 0
    return bound


def is_ipv4(keys: Keys) -> NDArray[np.bool_]:
    """Which keys have an IPv4 address as their local end."""
    is_one: NDArray[np.bool_] = (keys[:, 0] == 0) & (keys[:, 1] & _LOW_HALF == _IPV4_PREFIX)
    return is_one


def is_any(keys: Keys) -> NDArray[np.bool_]:
    """Which keys have any address, 0.0.0.0 or ::, as their local end."""
    is_one: NDArray[np.bool_] = keys[:, 0] == 0
    is_one &= (keys[:, 1] == 0) | (keys[:, 1] == _IPV4_PREFIX)
    return is_one


def is_loopback(keys: Keys) -> NDArray[np.bool_]:
    """Which keys have an address of 127.0.0.0/8 or ::1 as their local end."""
    first_byte = keys[:, 1] >> np.uint64(32) & np.uint64(0xFF)
    is_one: NDArray[np.bool_] = is_ipv4(keys) & (first_byte == _IPV4_LOOPBACK)
    is_one |= (keys[:, 0] == 0) & (keys[:, 1] == _IPV6_LOOPBACK)
    return is_one


def has_remote(keys: Keys) -> NDArray[np.bool_]:
    """Which keys have a peer."""
    has: NDArray[np.bool_] = keys[:, 4] >> _REMOTE_SHIFT & _PORT != 0
    return has


def local_ports(keys: Keys) -> NDArray[np.intp]:
    return (keys[:, 4] & _PORT).astype(np.intp)


def protocols(keys: Keys) -> NDArray[np.uint8]:
    return (keys[:, 4] >> _PROTOCOL_SHIFT).astype(np.uint8)


def mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The keyed hash of each row of words."""
    return _HASHING.keys(words.T)
