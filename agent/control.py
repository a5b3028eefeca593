# SPDX-License-Identifier: Apache-2.0
"""The socket on which a running agent takes orders, from root on its own machine.

A connection is one order.  It is carried out while the connection lasts: a client that ends, in
whatever way, ends what it asked for.  docs/reference/control-socket.md describes the messages.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.captures import Capture, CaptureError, Captures, RefusedError
from agent.clock import wall_offset_ns
from agent.condition import matches
from agent.interfaces import Interface
from agent.ownership import Look, owners_of
from agent.points import HookPoints
from agent.programs import LOCKS
from agent.rules.orders import RuleOrders
from schemas.fields import DIRECTIONS
from schemas.filter.grammar import parse
from schemas.filter.tree import EVERYTHING, Filter, Like, both
from schemas.filter.tree import Any as AnyOf
from schemas.filter.words import FilterError
from schemas.rules.rule import RuleError
from service.messages import (
    LENGTH_BYTES,
    Message,
    MessageError,
    length_in,
    packed,
    unpacked,
)

log = logging.getLogger(__name__)

VERSION = 1
_ACCEPT_AGAIN_SECONDS = 1.0
_RECEIVE_BYTES = 1 << 18
_FAILED = 1  # as exit codes
_REFUSED = 2


def socket_path(name: str) -> Path:
    """Where the agent of that name listens."""
    return LOCKS / f"{name}.sock"


class Control:
    """Carries out the orders of every client."""

    def __init__(
        self,
        captures: Captures,
        rules: RuleOrders,
        points: Callable[[], list[Message]],
        owners: Look,
        state: Callable[[], Message],
    ) -> None:
        """*points* describes every hook point that is in use, *owners* tells whose flows are.

        *state* is what `hookline doctor` wants to know.
        """
        self._state = state
        self._captures = captures
        self._rules = rules
        self._points = points
        self._owners = owners
        self._clients: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        """Listen at *path* until the block is left, and end every order then."""
        with _listener(path) as listener, _removed(path):
            accepting = asyncio.create_task(self._accept(listener))
            try:
                yield
            finally:
                for task in (accepting, *self._clients):
                    task.cancel()
                await asyncio.gather(accepting, *self._clients, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = await asyncio.get_running_loop().sock_accept(listener)
            except OSError as error:  # too many open files, for example
                log.warning("cannot accept a client", extra={"reason": str(error)})
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            peer.setblocking(False)
            task = asyncio.create_task(self._serve(peer))
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)

    async def _serve(self, peer: socket.socket) -> None:
        with peer:
            try:
                await self._obey(peer)
            except (MessageError, ConnectionError) as error:
                log.warning("a client was cut off", extra={"reason": str(error)})
            except (CaptureError, RuleError) as error:
                is_refused = isinstance(error, RefusedError | RuleError)
                await _tell_error(peer, str(error), _REFUSED if is_refused else _FAILED)

    async def _obey(self, peer: socket.socket) -> None:
        order = await _hear(peer)
        if order is None:
            return
        if (order.get("v"), order.get("do")) == (VERSION, "state"):
            await _say(peer, {"ok": True, **self._state()})
            return
        if order.get("v") == VERSION and order.get("do") in ("rules", "rules-change"):
            await self._obey_about_rules(peer, order)
            return
        if order.get("v") != VERSION or order.get("do") != "capture":
            raise RefusedError(
                f"the agent knows no order {order.get('do')!r} of version {order.get('v')!r};"
                " use the hookline that it came with"
            )
        globs = self._globs_of(order)
        tree = _filter_of(order, globs)
        capture = await self._captures.start(
            tree, snaplen=_number(order, "snaplen"), ring_bytes=_number(order, "ring_bytes")
        )
        try:
            await self._describe(peer, capture, globs)
            while (order := await _hear(peer)) and order.get("do") != "stop":
                await _say(peer, {"ok": True, **self._answer(order, globs)})
        finally:
            await asyncio.shield(self._captures.stop(capture))
        with contextlib.suppress(ConnectionError):
            await _say(peer, {"ok": True})

    async def _obey_about_rules(self, peer: socket.socket, order: Message) -> None:
        try:
            answer = await (
                self._rules.listed() if order["do"] == "rules" else self._rules.change(order)
            )
        except OSError as error:
            await _tell_error(peer, f"the rules are as they were: {error}", _FAILED)
        else:
            await _say(peer, {"ok": True, **answer})

    def _globs_of(self, order: Message) -> list[str]:
        """The interfaces that the order names; an empty list stands for all."""
        globs = [str(glob) for glob in order.get("interfaces", ())]
        names = {str(point["interface"]) for point in self._points()}
        for glob in globs:
            if not any(matches(name, glob) for name in names):
                there = ", ".join(sorted(names))
                raise RefusedError(f"the agent observes no interface {glob!r}; there are: {there}")
        return globs

    async def _describe(self, peer: socket.socket, capture: Capture, globs: list[str]) -> None:
        """Tell the client where its packets come, and hand over the descriptors."""
        books_fd = self._captures.open_books()
        try:
            await _say(
                peer,
                {
                    "ok": True,
                    "slot": capture.slot,
                    "cpus": self._captures.plan.cpus,
                    "hook_points": self._captures.plan.hook_points,
                    "points": self._chosen_points(globs),
                },
                [capture.ring_fd, books_fd],
            )
        finally:
            os.close(books_fd)

    def _answer(self, order: Message, globs: list[str]) -> Message:
        """What a client wants to know while it captures."""
        if order.get("do") != "owners":
            return {"points": self._chosen_points(globs)}
        try:
            return {"owners": owners_of(order["flows"], self._owners, wall_offset_ns())}
        except (KeyError, TypeError, ValueError) as error:
            raise RefusedError(f"these are no flows: {error}") from None

    def _chosen_points(self, globs: list[str]) -> list[Message]:
        return [
            point
            for point in self._points()
            if not globs or any(matches(str(point["interface"]), glob) for glob in globs)
        ]


def describe(points: HookPoints, interfaces: Iterable[Interface]) -> list[Message]:
    """Every hook point in use, as clients are told of it."""
    link_bytes = {one.full_name: one.link_bytes for one in interfaces}
    return [
        {"point": point, "interface": name, "direction": direction}
        | {"link_bytes": link_bytes.get(name, 0)}
        for pair, name in points.taken.items()
        for point, direction in zip((pair.ingress, pair.egress), DIRECTIONS, strict=True)
    ]


def _listener(path: Path) -> socket.socket:
    """A socket that root alone may connect to."""
    path.unlink(missing_ok=True)  # of an agent that was killed; we hold its name
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen()
    return listener


@contextlib.contextmanager
def _removed(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _filter_of(order: Message, globs: list[str]) -> Filter:
    """What the order wants to capture."""
    try:
        tree = parse(str(order.get("filter", "")), for_packets=True)
    except FilterError as error:
        raise RefusedError(str(error)) from None
    chosen = AnyOf(tuple(Like("interface", glob) for glob in globs)) if globs else EVERYTHING
    return both(chosen, tree)


def _number(order: Message, name: str) -> int:
    value: Any = order.get(name)
    if not isinstance(value, int):
        raise RefusedError(f"the order lacks the number {name}")
    return value


async def _tell_error(peer: socket.socket, text: str, code: int) -> None:
    # Who has left meanwhile need not hear of it.
    with contextlib.suppress(ConnectionError):
        await _say(peer, {"error": text, "code": code})


async def _say(peer: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    loop = asyncio.get_running_loop()
    data = packed(message)
    # The length alone always has room in an empty buffer, so this does not block.
    sent = socket.send_fds(peer, [data[:LENGTH_BYTES]], fds) if fds else 0
    await loop.sock_sendall(peer, data[sent:])


async def _hear(peer: socket.socket) -> Message | None:
    """The next message, or None where the client has ended."""
    head = await _exactly(peer, LENGTH_BYTES)
    return unpacked(await _exactly(peer, length_in(head))) if head else None


async def _exactly(peer: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        part = await loop.sock_recv(peer, min(count - len(data), _RECEIVE_BYTES))
        if not part:
            return b""
        data += part
    return bytes(data)
