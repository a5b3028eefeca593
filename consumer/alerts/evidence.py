# SPDX-License-Identifier: Apache-2.0
"""Say what was found: addresses, numbers and times for people, and SQL that shows the rows.

Names in rows are chosen by whoever runs a process or asks for a name, so they are quoted in SQL, and
what cannot be printed is escaped in sentences.
"""

from datetime import UTC, datetime
from ipaddress import IPv6Address, ip_network

import numpy as np

from consumer.alerts.rows import NS_PER_S
from schemas.clickhouse import DATABASE

# Rows whose interval began before the second that was looked at, and rows that come late.
MARGIN_S = 5
ROWS = 100
_IPV4_BITS = 96


def address(raw: np.void | bytes) -> str:
    """An address as people write it."""
    mapped = IPv6Address(raw.tobytes() if isinstance(raw, np.void) else raw)
    return str(mapped.ipv4_mapped or mapped)


def network(raw: np.void | bytes, *, ipv4_bits: int, ipv6_bits: int) -> str:
    """The network that an address is in."""
    shown = address(raw)
    return str(ip_network(f"{shown}/{ipv6_bits if ':' in shown else ipv4_bits}", strict=False))


def shown(name: str) -> str:
    """A name as it may stand in a sentence of one line."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


def literal(text: str) -> str:
    """A text as SQL spells it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def is_address(column: str, text: str) -> str:
    """That *column* has this address."""
    return f"{column} = toIPv6({literal(text)})"


def in_network(column: str, cidr: str) -> str:
    """That *column* is in this network; columns hold IPv4 mapped."""
    first, _, bits = cidr.partition("/")
    if ":" not in first:
        first, bits = f"::ffff:{first}", str(_IPV4_BITS + int(bits))
    return f"isIPAddressInRange(toString({column}), {literal(f'{first}/{bits}')})"


def during(began_ns: int, seen_ns: int, *, margin_s: int = MARGIN_S) -> str:
    """That `time` is about from *began_ns* to *seen_ns*."""
    first, last = began_ns // NS_PER_S - margin_s, seen_ns // NS_PER_S + margin_s
    return f"time BETWEEN {_at(first)} AND {_at(last)}"


def _at(second: int) -> str:
    return f"toDateTime64('{datetime.fromtimestamp(max(second, 0), UTC):%F %T}', 9, 'UTC')"


def query(select: str, table: str, *conditions: str, tail: str = "ORDER BY time") -> str:
    """A query for the rows of *table* on which all *conditions* hold."""
    return (
        f"SELECT {select} FROM {DATABASE}.{table} WHERE {' AND '.join(conditions)}"
        f" {tail} LIMIT {ROWS}"
    )


def quantity(value: float) -> str:
    """A number in as few digits as people need."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
