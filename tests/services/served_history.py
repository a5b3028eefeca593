# SPDX-License-Identifier: Apache-2.0
"""A history that its own process holds and serves, as `hookline up` would.

One process holds one history, so tests that need one start this file.  It creates the tables,
serves them on a free port, says where in one line of JSON, and then obeys lines on its standard
input: `rows N` inserts N flows, `busy` inserts until the next line; each is answered by a line.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
INSERT_FLOWS = """
INSERT INTO hookline.flows
    (time, end, node, interface, direction, src_addr, dst_addr, src_port, dst_port, protocol,
     ethertype, packets, bytes, tcp_flags)
SELECT now64(9) - toIntervalSecond(1 + number % 60) AS start, start + toIntervalMillisecond(500), 'alpha',
    if(number % 3 = 0, 'eth0', 'eth1'), if(number % 2 = 0, 'ingress', 'egress'),
    toIPv6('::ffff:10.0.0.' || toString(1 + number % 5)),
    toIPv6('2001:db8::' || toString(1 + number % 7)),
    1024 + number % 11, 443, if(number % 4 = 0, 17, 6), 2048, 1 + number % 10, 100 + number % 1400, 18
FROM numbers({count})
"""


@dataclass(slots=True)
class ServedHistory:
    """The process, where it listens, and its directory."""

    process: subprocess.Popen[str]
    port: int
    directory: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tell(self, line: str) -> str:
        """Give the process a line and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def served_history(directory: Path, *, max_queries: int = 16) -> Iterator[ServedHistory]:
    """Serve a new history under *directory*, as `hookline up` lays it out."""
    directory.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        [sys.executable, __file__, str(directory), str(max_queries)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        try:
            yield ServedHistory(process, port, directory)
        finally:
            process.stdin.close()  # the end of its commands
            assert process.wait(timeout=30) == 0


def http(port: int, request: bytes) -> bytes:
    """Send raw bytes and return everything until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def main() -> None:
    import clickhouse_connect

    from consumer.api.server import ApiServer
    from schemas.catalogue import RECORDS
    from schemas.clickhouse import create_database, create_table
    from schemas.rollup import ROLLUPS
    from schemas.rollup_sql import create_rollup, create_view

    directory, max_queries = Path(sys.argv[1]), int(sys.argv[2])
    dsn = f"chdb://{directory}/clickhouse"
    client = clickhouse_connect.get_client(dsn=dsn)
    client.command(create_database())
    for record in RECORDS:
        client.command(create_table(record))
    for rollup in ROLLUPS:
        client.command(create_rollup(rollup))
        client.command(create_view(rollup))
    with ApiServer(dsn, port=0, max_queries=max_queries) as api:
        here = {"pid": os.getpid(), "http": api.url}
        (directory / "up.json").write_text(json.dumps(here))
        print(json.dumps({"port": api.port}), flush=True)
        obey(client)
    client.close()


def obey(client: Any) -> None:
    stop = threading.Event()
    inserter: threading.Thread | None = None
    for line in sys.stdin:
        if inserter is not None:
            stop.set()
            inserter.join()
            inserter = None
        words = line.split()
        if words[0] == "rows":
            client.command(INSERT_FLOWS.replace("{count}", words[1]))
        if words[0] == "busy":
            stop.clear()
            inserter = threading.Thread(target=insert_until, args=(client, stop))
            inserter.start()
            time.sleep(0)
        if words[0] == "sql":
            client.command(line.partition(" ")[2])
        print("done", flush=True)


def insert_until(client: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        client.command(INSERT_FLOWS.replace("{count}", "1000"))


if __name__ == "__main__":
    main()
