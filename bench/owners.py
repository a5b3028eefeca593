# SPDX-License-Identifier: Apache-2.0
"""CPU time to say who spoke: 100,000 flow rows, 100,000 sockets known.

    python -m bench.owners [--quick | --long]

Rows are shuffled; sockets belong to 500 processes in 100 cgroups.  Where rows have no socket, as
on a machine that only forwards, every way of finding one is tried in vain.
"""

import time
from collections.abc import Callable

import numpy as np

from agent.cgroups import Cgroups
from agent.hierarchy import Hierarchies
from agent.owners import OwnerLookup
from agent.sockettable import Owners
from agent.tuples import TCP, keys_of
from bench.rounds import cell, table
from bench.subject import Scale, main
from schemas.fields import DIRECTIONS

COUNT = 100_000
CGROUPS = 100
PROCESSES = 500
NEW = 1_000
SERVER = np.frombuffer(bytes(10) + b"\xff\xff\x0a\0\0\x01", "V16")
SECOND_NS = 1_000_000_000


def measure(scale: Scale) -> list[dict]:
    rounds = scale.pick(11, 5, 31)
    lookup = a_lookup()
    rows = {
        "rows that all have a socket": flows(np.arange(COUNT), DIRECTIONS["ingress"]),
        "rows seen from a container's link, mirrored": flows(
            np.arange(COUNT), DIRECTIONS["egress"]
        ),
        "rows of which none has one": flows(np.arange(COUNT) + COUNT, DIRECTIONS["ingress"]),
    }
    steps: dict[str, Callable[[], object]] = {
        name: lambda one=one: lookup.flow_columns(one, 0) for name, one in rows.items()
    }
    cells = [
        [name, cell([clocked(step) for _ in range(rounds)], 1)] for name, step in steps.items()
    ]
    cells.append([f"{NEW:,} sockets opened, then closed", cell(churn(lookup, 0, rounds), 1)])
    lookup.close(server_keys(np.arange(COUNT)), np.full(COUNT, 9 * SECOND_NS))
    name = "the same, where all others have closed within a minute"
    cells.append([name, cell(churn(lookup, rounds, rounds), 1)])
    title = f"Owners of {COUNT:,} rows among {COUNT:,} sockets"
    return [table(title, ["step", "CPU ms"], cells)]


def a_lookup() -> OwnerLookup:
    """All sockets open, and a listener, so that ports alone rule nothing out."""
    cgroups = Cgroups(Hierarchies(None, has_v1=False))
    paths = {n + 1: f"/system.slice/s{n}.service" for n in range(CGROUPS)}
    cgroups.learn(paths, 0.0)
    lookup = OwnerLookup(cgroups)
    lookup.set_local_addresses(SERVER)
    lookup.open(server_keys(np.arange(COUNT)), np.ones(COUNT, np.int64), owners(COUNT))
    lookup.open(listener(), np.ones(1, np.int64), owners(1))
    return lookup


def owners(count: int) -> Owners:
    process = np.arange(count) % PROCESSES
    return Owners(
        process.astype(np.uint32) + 1000,
        np.zeros(count, np.uint32),
        np.zeros(count, np.uint64),
        (process % CGROUPS + 1).astype(np.uint64),
    )


def clients(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Address and port of each client."""
    addresses = np.zeros((len(numbers), 16), np.uint8)
    addresses[:, 10:12] = 0xFF
    addresses[:, 12] = 198
    addresses[:, 13], addresses[:, 14] = numbers >> 14 & 0xFF, numbers >> 6 & 0xFF
    addresses[:, 15] = numbers & 0x3F
    return addresses.view("V16")[:, 0], (numbers * 7919 % 60000 + 1024).astype(np.uint16)


def server_keys(numbers: np.ndarray) -> np.ndarray:
    address, port = clients(numbers)
    return keys_of(
        local_addr=np.repeat(SERVER, len(numbers)),
        local_port=np.full(len(numbers), 443, np.uint16),
        remote_addr=address,
        remote_port=port,
        protocol=np.full(len(numbers), TCP, np.uint8),
    )


def listener() -> np.ndarray:
    """It listens where rows of no socket go to, at another address of ours."""
    keys = server_keys(np.zeros(1, np.int64))
    keys[:, 2:4] = 0
    keys[:, 4] &= np.uint64(0xFF_0000_FFFF)
    return keys


def flows(numbers: np.ndarray, direction: int) -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(7).permutation(numbers)
    address, port = clients(numbers)
    is_strange = numbers >= COUNT
    server = np.where(is_strange[:, None], np.uint8(9), SERVER.view(np.uint8)[None, :])
    when = np.full(len(numbers), 5 * SECOND_NS, np.int64)
    return {
        "time": when,
        "end": when + SECOND_NS,
        "direction": np.full(len(numbers), direction, np.uint8),
        "src_addr": address,
        "dst_addr": np.ascontiguousarray(server).view("V16")[:, 0],
        "src_port": port,
        "dst_port": np.full(len(numbers), 443, np.uint16),
        "protocol": np.full(len(numbers), TCP, np.uint8),
    }


def churn(lookup: OwnerLookup, first: int, rounds: int) -> list[float]:
    """The new connections of each interval from the *first* on, all of them short."""
    took = []
    for number in range(first, first + rounds):
        keys = server_keys(np.arange(NEW) + COUNT * 2 + number * NEW)
        at = np.full(NEW, 10 * SECOND_NS + number * SECOND_NS // 2, np.int64)

        def once(keys=keys, at=at) -> None:
            lookup.open(keys, at, owners(NEW))
            lookup.close(keys, at + 1)
            lookup.forget_closed(int(at[0]))

        took.append(clocked(once))
    return took


def clocked(step: Callable[[], object]) -> float:
    began = time.process_time_ns()
    step()
    return (time.process_time_ns() - began) / 1e6


if __name__ == "__main__":
    main(measure, __doc__)
