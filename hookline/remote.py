# SPDX-License-Identifier: Apache-2.0
"""Give orders to an agent that runs on this machine."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.control import VERSION, socket_path
from agent.programs import LOCKS
from service.messages import Message, MessageError, receive, send

_DEFAULT_NAME = "agent"


class RemoteError(Exception):
    """The agent is not there, or does not do it; the text is one line, *code* the exit code."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


@dataclass(slots=True)
class Order:
    """One order that is being carried out, for as long as the connection lasts."""

    peer: socket.socket
    answer: Message
    fds: list[int]

    def ask(self, what: str, **about: object) -> Message:
        """The agent's answer to `points`, `owners`, or `stop`, after which the order has ended.

        Raises:
            RemoteError: the agent has ended, or cannot do it.
        """
        try:
            send(self.peer, {"do": what, **about})
            heard = receive(self.peer)
        except (OSError, MessageError):
            heard = None
        if heard is None:
            raise RemoteError("the agent has ended, and the capture with it")
        _check(heard[0])
        return heard[0]


@contextmanager
def ordered(name: str | None, order: Message) -> Iterator[Order]:
    """An order given to the agent of that name, or to the one that runs.

    Raises:
        RemoteError: there is none, or it refuses.
    """
    with _connected(name) as peer:
        try:
            send(peer, {"v": VERSION, **order})
            heard = receive(peer)
        except (OSError, MessageError) as error:
            raise RemoteError(f"the agent gave no answer: {error}") from None
        if heard is None:
            raise RemoteError("the agent ended before it answered")
        answer, fds = heard
        try:
            _check(answer)
            yield Order(peer, answer, fds)
        finally:
            for fd in fds:
                os.close(fd)


def state_of(name: str) -> Message:
    """What the agent of that name tells of itself.

    Raises:
        RemoteError: there is none, or it does not tell.
    """
    with ordered(name, {"do": "state"}) as order:
        return order.answer


def _check(answer: Message) -> None:
    if error := answer.get("error"):
        raise RemoteError(str(error), int(answer.get("code", 1)))


@contextmanager
def _connected(name: str | None) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        path = socket_path(name) if name else _only_path()
        try:
            peer.connect(str(path))
        except PermissionError:
            raise RemoteError("an agent takes orders from root; run it with sudo") from None
        except OSError:
            raise RemoteError(
                f"no agent named {path.stem!r} runs here; there are: {_names()}"
            ) from None
        yield peer


def _only_path() -> Path:
    """The agent's socket, where there is no doubt which."""
    living = _living()
    for path in living:
        if path.stem == _DEFAULT_NAME:
            return path
    if len(living) == 1:
        return living[0]
    if not living:
        raise RemoteError("no agent runs on this machine; start `hookline up`, as root")
    raise RemoteError(f"several agents run here; choose with --agent: {_names()}", 2)


def running_agents() -> list[str]:
    """The names of the agents that run on this machine.

    Raises:
        RemoteError: we may not look.
    """
    return [path.stem for path in _living()]


def _names() -> str:
    return ", ".join(running_agents()) or "none"


def _living() -> list[Path]:
    """The sockets behind which somebody listens."""
    try:
        paths = sorted(LOCKS.glob("*.sock"))
    except PermissionError:
        raise RemoteError("an agent takes orders from root; run it with sudo") from None
    return [path for path in paths if _is_alive(path)]


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        try:
            peer.connect(str(path))
        except PermissionError:
            return True  # and it will tell whoever asks
        except OSError:
            return False
        return True
