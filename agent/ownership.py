# SPDX-License-Identifier: Apache-2.0
"""Tell clients who has the sockets of the packets that they capture."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from schemas.fields import DIRECTIONS
from schemas.wire import Column, Names

# More at once would hold up the event loop.
MOST_FLOWS = 4096

# Source and destination address, their ports, protocol, direction, and the packet's time.
Told = Sequence[Any]
Look = Callable[[Mapping[str, Any], int], Mapping[str, Column]]


def owners_of(flows: Sequence[Told], look: Look, offset_ns: int) -> list[str]:
    """The owner of each flow in words, "" where nobody knows it.

    Raises:
        ValueError, TypeError: these are no flows.
    """
    flows = flows[:MOST_FLOWS]
    if not flows:
        return []
    columns = look(_columns(flows), offset_ns)
    if not columns:
        return [""] * len(flows)
    command, unit, container = (_texts(columns[name]) for name in ("command", "unit", "container"))
    pids = np.asarray(columns["pid"]).tolist()
    return [_in_words(*one) for one in zip(pids, command, unit, container, strict=True)]


def _columns(flows: Sequence[Told]) -> dict[str, Any]:
    src, dst, src_port, dst_port, protocol, direction, seen_ns = zip(*flows, strict=True)
    time = np.array(seen_ns, np.int64)
    return {
        "src_addr": _addresses(src),
        "dst_addr": _addresses(dst),
        "src_port": np.array(src_port, np.uint16),
        "dst_port": np.array(dst_port, np.uint16),
        "protocol": np.array(protocol, np.uint8),
        "direction": np.array([DIRECTIONS[name] for name in direction], np.uint8),
        "time": time,
        "end": time,
    }


def _addresses(addresses: Sequence[bytes]) -> Any:
    return np.frombuffer(b"".join(addresses), "|V16", len(addresses))


def _texts(column: Column) -> list[str]:
    assert isinstance(column, Names)  # noqa: S101 - of these three columns
    return [column.categories[code] for code in column.codes.tolist()]


def _in_words(pid: int, command: str, unit: str, container: str) -> str:
    parts = [f"pid {pid}"] if pid else []
    parts += [f"unit {unit}"] if unit else []
    parts += [f"container {container[:12]}"] if container else []
    if not command:
        return ", ".join(parts)
    return f"{command} ({', '.join(parts)})" if parts else command
