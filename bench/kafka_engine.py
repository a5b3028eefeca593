# SPDX-License-Identifier: Apache-2.0
"""The peer of the consumer: ClickHouse's own Kafka engine, in a process of its own.

    python bench/kafka_engine.py LIBRARY DATABASE BROKER TOPIC FORMAT BLOCK_ROWS ROWS CREATE

LIBRARY is a directory with a chdb-core whose Kafka engine works, which the newest has not
(26.1.0 has; 26.3 to 26.9 refuse it).  CREATE is a file of statements, the first of which makes the
table of rows; those behind it may make rollups.  Prints one line of JSON: seconds and CPU seconds
from the assignment of partitions until ROWS rows are in the table, and in every rollup: the rows are
there before the views that add them up have begun with their last block.
"""

import json
import re
import sys
import time
from pathlib import Path

POLL_S = 0.02
DEADLINE_S = 300.0
SEPARATOR = ";\n\n"


def main() -> None:
    library, database, broker, topic, form, block_rows, rows, create = sys.argv[1:]
    sys.path.insert(0, library)
    from chdb import session  # noqa: PLC0415  # only now is it the right one

    engine = session.Session(database)
    engine.query("CREATE DATABASE hookline ENGINE = Atomic")
    statements = Path(create).read_text().split(SEPARATOR)
    for statement in statements:
        engine.query(statement)
    table = statements[0]
    # What a queue has not: comments, codecs, and columns that nobody sends.
    columns = re.sub(r" COMMENT '.*\)(?=,?$)", "", table[table.index("(") :], flags=re.MULTILINE)
    columns = re.sub(r",\n[^\n]* MATERIALIZED [^\n]*", "", columns)
    columns = columns[: columns.index("ENGINE = MergeTree")]
    engine.query(
        f"CREATE TABLE hookline.queue {columns} ENGINE = Kafka SETTINGS"
        f" kafka_broker_list = '{broker}', kafka_topic_list = '{topic}',"
        f" kafka_group_name = 'bench-{time.time_ns()}', kafka_format = '{form}',"
        " kafka_num_consumers = 1, kafka_thread_per_consumer = 1,"
        f" kafka_max_block_size = {block_rows}"
    )
    engine.query(
        "CREATE MATERIALIZED VIEW hookline.moving TO hookline.flows AS SELECT * FROM hookline.queue"
    )
    deadline = time.monotonic() + DEADLINE_S
    _until(lambda: _is_assigned(engine), deadline)
    started, cpu = time.monotonic(), time.process_time()
    counts = _counts(engine)
    _until(lambda: all(_value(engine, query) >= int(rows) for query in counts), deadline)
    print(
        json.dumps({"seconds": time.monotonic() - started, "cpu_s": time.process_time() - cpu}),
        flush=True,
    )


def _until(is_so, deadline: float) -> None:
    while not is_so():
        if time.monotonic() > deadline:
            sys.exit("the Kafka engine did not finish in time")
        time.sleep(POLL_S)


def _is_assigned(engine) -> bool:
    return _value(engine, "SELECT sum(length(assignments.topic)) FROM system.kafka_consumers") > 0


def _counts(engine) -> list[str]:
    """How many rows are stored, and how many are in the sums of each rollup that there is."""
    tables = engine.query(
        "SELECT table FROM system.columns WHERE database = 'hookline' AND name = 'flows'"
        " AND table NOT LIKE '%_view'",
        "TabSeparated",
    )
    # One of them has every row twice, once for each side.
    sides = {"addresses_1d": " WHERE side = 'src'"}
    sums = [
        f"SELECT sum(flows) FROM hookline.{table}{sides.get(table, '')}"
        for table in str(tables).split()
    ]
    return ["SELECT count() FROM hookline.flows", *sums]


def _value(engine, query: str) -> int:
    return int(str(engine.query(query, "TabSeparated")).strip() or 0)


if __name__ == "__main__":
    main()
