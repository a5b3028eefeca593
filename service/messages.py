# SPDX-License-Identifier: Apache-2.0
"""Messages between two processes on one machine: msgpack maps over a unix socket, with descriptors.

A message is its length, four bytes in network order, and as many bytes of msgpack.  Descriptors
travel with the length.
"""

import socket
from collections.abc import Sequence
from typing import Any

import msgpack

LENGTH_BYTES = 4
# Thousands of interfaces fit; a peer that announces more speaks something else.
MAX_BYTES = 1 << 26
_MAX_FDS = 4

Message = dict[str, Any]


class MessageError(Exception):
    """What the peer sent is no message."""


def packed(message: Message) -> bytes:
    """A message as it goes over the wire, its length in front."""
    body: bytes = msgpack.packb(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def unpacked(body: bytes) -> Message:
    """The map in *body*.

    Raises:
        MessageError: it is none.
    """
    try:
        message = msgpack.unpackb(body)
    except ValueError:
        raise MessageError("no msgpack") from None
    if not isinstance(message, dict):
        raise MessageError("no map")
    return message


def length_in(head: bytes) -> int:
    """How long the message behind *head* is.

    Raises:
        MessageError: longer than any message.
    """
    length = int.from_bytes(head, "big")
    if length > MAX_BYTES:
        raise MessageError(f"a length of {length} bytes")
    return length


def send(peer: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send a message whole, and descriptors with it; blocks."""
    data = packed(message)
    sent = socket.send_fds(peer, [data[:LENGTH_BYTES]], fds)
    peer.sendall(data[sent:])


def receive(peer: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and the descriptors that came with it; None at the end; blocks.

    Raises:
        MessageError: something else came.
    """
    head, fds, _, _ = socket.recv_fds(peer, LENGTH_BYTES, _MAX_FDS)
    if not head:
        return None
    head += _exactly(peer, LENGTH_BYTES - len(head))
    return unpacked(_exactly(peer, length_in(head))), list(fds)


def _exactly(peer: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = peer.recv(count)
        if not part:
            raise MessageError("an end in the middle of a message")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
