# SPDX-License-Identifier: Apache-2.0
"""Show the busiest flows while they happen: a table on a terminal, plain lines elsewhere."""

import asyncio
import json
import sys
import urllib.error
import urllib.request
from ipaddress import IPv6Address
from typing import Any

from rich.console import Console
from rich.live import Live as Screen
from rich.table import Table

from hookline.words import endpoints, protocol_name, with_unit

WINDOW_SECONDS = 10
_REFRESH_SECONDS = 1.0
_PLAIN_SECONDS = 10.0
_FIRST_SECONDS = 4.0  # by then the first rows are stored
_ROWS_ON_TERMINAL = 15
_ROWS_IN_LINES = 5

_SQL = f"""
SELECT src_addr, src_port, dst_addr, dst_port, protocol, ethertype, interface,
       toString(direction), sum(packets) AS flow_packets, sum(bytes) AS flow_bytes
FROM hookline.flows
WHERE time > now64() - INTERVAL {WINDOW_SECONDS} SECOND
GROUP BY ALL
ORDER BY flow_bytes DESC
LIMIT {{limit:UInt32}}
FORMAT JSONCompactEachRow
SETTINGS output_format_json_quote_64bit_integers = 0
"""

Row = list[Any]


class Live:
    """A view of the history that ClickHouse serves at *url*."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._console = Console(stderr=False)

    def tell(self, text: str) -> None:
        """Say one line to the human, above the table where there is one."""
        if self._console.is_terminal:
            self._console.print(text, highlight=False, markup=False)
        else:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    async def run(self) -> None:
        """Show flows until cancelled."""
        if self._console.is_terminal:
            await self._show_table()
        else:
            await self._print_lines()

    async def _show_table(self) -> None:
        with Screen(_table([]), console=self._console, auto_refresh=False) as screen:
            while True:
                rows = await asyncio.to_thread(self._top, _ROWS_ON_TERMINAL)
                if rows is not None:
                    screen.update(_table(rows), refresh=True)
                await asyncio.sleep(_REFRESH_SECONDS)

    async def _print_lines(self) -> None:
        await asyncio.sleep(_FIRST_SECONDS)
        while True:
            for row in await asyncio.to_thread(self._top, _ROWS_IN_LINES) or []:
                print("  ".join(_cells(row)), flush=True)
            await asyncio.sleep(_PLAIN_SECONDS)

    def _top(self, limit: int) -> list[Row] | None:
        """The busiest flows of the window; None when ClickHouse did not answer."""
        request = urllib.request.Request(f"{self._url}/?param_limit={limit}", _SQL.encode())  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310 - our own URL
                return [json.loads(line) for line in reply.read().splitlines()]
        except (urllib.error.URLError, TimeoutError, json.JSONDecodeError):
            return None


def _table(rows: list[Row]) -> Table:
    table = Table(
        title=f"busiest flows of the last {WINDOW_SECONDS} s; Ctrl-C stops",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name in ("from", "to", "what", "where"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for name in ("packets", "rate"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    src_addr, src_port, dst_addr, dst_port, protocol, ethertype, interface, direction = row[:8]
    packets, in_bytes = row[8:]
    return [
        *endpoints((IPv6Address(src_addr), src_port), (IPv6Address(dst_addr), dst_port), protocol),
        protocol_name(protocol, ethertype),
        f"{interface} {direction}",
        with_unit(packets, ""),
        with_unit(in_bytes * 8 / WINDOW_SECONDS, "bit/s"),
    ]
