# SPDX-License-Identifier: Apache-2.0
"""Flow batches that look like a busy server's, the same ones in every run."""

import time

import numpy as np

from schemas import wire
from schemas.flow import FLOW
from schemas.layout import NAME, Field

CLIENTS = 4_000
SERVICES = np.array([443, 80, 53, 22, 5432, 9092], "<u2")
INTERVAL_NS = 10**9


def batches(count: int, rows: int, *, nodes: int = 4) -> list[wire.Batch]:
    """*count* batches of *rows* flows each, from *nodes* nodes in turn."""
    rng = np.random.default_rng(20)
    clients = _addresses(rng, CLIENTS)
    services = _addresses(rng, len(SERVICES) * 8)
    start_ns = time.time_ns() - count * INTERVAL_NS
    return [
        wire.Batch(
            kind="flow",
            node=f"node-{seq % nodes}",
            boot_id="bench",
            run="bench",
            seq=seq,
            anchor={"monotonic_ns": 0, "wall_ns": start_ns},
            rows=rows,
            columns=_columns(rng, clients, services, rows, start_ns + seq * INTERVAL_NS),
        )
        for seq in range(count)
    ]


def _addresses(rng: np.random.Generator, count: int) -> np.ndarray:
    content = np.zeros((count, 16), np.uint8)
    content[:, 10:12] = 0xFF
    content[:, 12] = 10
    content[:, 13:] = rng.integers(0, 256, (count, 3))
    return content.view("|V16").reshape(count)


def _columns(rng, clients, services, rows, at_ns) -> dict[str, wire.Column]:
    packets = rng.geometric(0.02, rows).astype("<u8")
    service = rng.integers(0, len(services), rows)
    starts = np.sort(rng.integers(0, INTERVAL_NS, rows)) + at_ns
    values = {
        "time": starts.astype("<i8"),
        "end": (starts + rng.integers(0, INTERVAL_NS, rows)).astype("<i8"),
        "interface": wire.Names((rng.random(rows) < 0.1).astype("|u1"), ("eth0", "wg0")),
        "direction": rng.integers(1, 3, rows).astype("|u1"),
        "src_addr": clients[rng.zipf(1.3, rows) % len(clients)],
        "dst_addr": services[service],
        "src_port": rng.integers(32768, 61000, rows).astype("<u2"),
        "dst_port": SERVICES[service % len(SERVICES)],
        "protocol": rng.choice(np.array([6, 17], "|u1"), rows, p=[0.8, 0.2]),
        "ethertype": np.full(rows, 0x0800, "<u2"),
        "tcp_flags": rng.choice(np.array([16, 24, 27], "|u1"), rows),
        "packets": packets,
        "bytes": packets * rng.integers(60, 1500, rows).astype("<u8"),
        "min_bytes": np.full(rows, 60, "<u2"),
        "max_bytes": rng.choice(np.array([60, 590, 1514], "<u2"), rows),
    }
    return {field.name: values.get(field.name, _zeros(field, rows)) for field in FLOW.fields}


def _zeros(field: Field, rows: int) -> wire.Column:
    if field.kind is NAME:
        return wire.Names(np.zeros(rows, "|u1"), ("",))
    return np.zeros(rows, field.kind.numpy)
