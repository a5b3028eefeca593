# SPDX-License-Identifier: Apache-2.0
"""A month of flows as a cluster makes them, generated inside ClickHouse; the same ones for a seed.

What compresses and what groups decides every figure, so nothing here repeats more than it does in
life.  How far rollups condense depends on the shape that is chosen here: with more nodes and pods,
and all rows short connections, there were 60 edges of an hour for 100 rows, and little was gained.

The addresses of an entity are random, not consecutive.  Half of the rows are of some hundred
connections at a time that last for minutes to hours and report again and again; each row of the
other half is a connection of its own, with a random port.  Sizes are Pareto's.  Times have random
nanoseconds; ends are as an agent tells them: those of ticks of 4 ms, which lie elsewhere in each
second of a node, in whole milliseconds.  Who talks to whom is skewed everywhere by 1/rank: nodes, pods of
a node, services of a pod, clients of a service.  The traffic of a day swings between four sevenths
and four times its mean.  Containers are replaced every few days, and with them the ids, cgroups and
processes of their rows.

Every value is a hash of the seed, its row's number and a salt, so days can be made in any order, and
side by side.  A table of any length is the beginning of no other: *rows* are spread over all days.
"""

from bench.history_events import DNS_VALUES, DROP_VALUES, SHARED, TLS_VALUES
from schemas import fields as f
from schemas.clickhouse import DATABASE, columns
from schemas.dns import DNS
from schemas.flow import FLOW
from schemas.layout import ADDR, NAME, TEXT, Field, Record
from schemas.refusal import DROP
from schemas.socket import SOCKET
from schemas.tls import TLS

NODES = 24
PODS = 25  # of a node
SERVICES = 120
CLIENTS = 400_000  # outside
LANES = 600  # long connections at a time
SEED = 20

# Beside each what it is; `n` is the row's number, and WITH lets each use those before it.
_SHARED = {
    "x": "(n + 0.5) / {rows} * {days}",  # days, before the rhythm
    # The density of this is 1 / (1 + 0.75 cos): it is long over night, when rows are few.
    "day": "x + 0.75 / 6.283185307 * sin(6.283185307 * x)",
    "second": "toInt64(day * 86400)",
    "at": "{start_ns} + second * 1000000000 + h(1) % 1000000000",
    # Rows of a connection that lasts differ in nothing that `of_` knows; others are all their own.
    "is_long": "u(2) < 0.5",
    "lane": "toUInt32(floor(exp(u(3) * log({lanes} + 0.99))))",
    "life": "toInt64(300 * exp(s(lane, 4) % 1000 / 1000 * log(100)))",
    "base": "if(is_long, cityHash64(lane, intDiv(second + s(lane, 5) % life, life)), n)",
    "node_at": "toUInt32(floor(exp(f(6) * log({nodes} + 0.99)))) - 1",
    "pod": "node_at * {pods} + toUInt32(floor(exp(f(7) * log({pods} + 0.99)))) - 1",
    # 0 its own services, 1 clients from outside, 2 names, 3 the world, 4 ICMP, 5 a scan
    "drawn": "if(is_long, f(8) * 0.84, f(8))",
    "what": (
        "multiIf(drawn < 0.62, 0, drawn < 0.84, 1, drawn < 0.93, 2, drawn < 0.985, 3,"
        " drawn < 0.995, 4, 5)"
    ),
    "service": "s(pod * 16 + toUInt32(floor(exp(f(9) * log(12.99)))), 10) % {services}",
    "rank": "toUInt32(floor(exp(f(11) * log({clients} + 0.99))))",
    "pod_addr": "inside(s(pod, 12))",
    "peer": (
        "multiIf(what = 0, inside(s(service * 8 + b(13) % 6, 14)), what = 2, inside(b(13) % 3),"
        " outside(s(if(what = 5, rank % 40, rank), 15)))"
    ),
    "port": (
        "multiIf(what = 0, [443, 8080, 5432, 6379, 9092, 3306, 50051, 9090, 8443, 11211]"
        "[service % 10 + 1], what = 1, [443, 443, 443, 80][pod % 4 + 1], what = 2, 53,"
        " what = 3, [443, 443, 80, 123][b(16) % 4 + 1], what = 4, 0, b(16) % 65536)"
    ),
    "client_port": "if(port = 0, 0, toUInt16(32768 + b(17) % 28232))",
    "is_client": "what NOT IN (1, 5)",  # the pod is
    "is_egress": "h(20) % 2",  # and the pod is what sends
    "from_client": "is_client = is_egress",
    "container_at": "cityHash64(pod, intDiv(second, 86400 * (1 + s(pod, 21) % 6)))",
    "container_id": "lower(hex(SHA256(toString(container_at))))",
    "is_owned": "what != 4 AND u(26) < 0.92",
    "name_at": "if(is_client, s(pod, 27), s(pod, 28)) % 40",
    "many": "least(1e7, pow(1 - u(29), -0.9))",
    "size": "if(from_client = (h(30) % 5 > 0), 66 + h(31) % 300, 300 + h(31) % 1215)",
    "is_tcp": "what IN (0, 1, 5) OR (what = 3 AND port != 123)",
    "last_at": "at + if(many < 2, 0, h(32) % (1000000000 - at % 1000000000))",
    "tick_at": "intDiv(last_at, 4000000) * 4000000 + (4 + s(node_at, second) % 4) * 1000000",
    **SHARED,
}
_FLOW = {
    "time": "fromUnixTimestamp64Nano(at, 'UTC')",
    "end": "fromUnixTimestamp64Nano(toInt64(tick_at), 'UTC')",
    "node": "concat('node-', toString(node_at))",
    "interface": "if(h(33) % 10 < 4, concat('veth', lower(hex(toUInt32(s(pod, 34))))), 'eth0')",
    "direction": "if(is_egress, 'egress', 'ingress')",
    "src_addr": "if(is_egress, pod_addr, peer)",
    "dst_addr": "if(is_egress, peer, pod_addr)",
    "src_port": "if(from_client, client_port, port)",
    "dst_port": "if(from_client, port, client_port)",
    "protocol": "multiIf(what = 4, 1, is_tcp, 6, 17)",
    "ethertype": "2048",
    "dscp": "if(service % 10 = 4, 10, 0)",
    "icmp_type": "if(what = 4, if(is_egress, 8, 0), 0)",
    "tcp_flags": (
        "multiIf(NOT is_tcp, 0, what = 5, if(from_client, 2, 20), is_long, if(h(35) % 8 = 0, 16, 24),"
        " [27, 27, 27, 27, 24, 26, 19, 31][h(35) % 8 + 1])"
    ),
    "packets": "toUInt64(many)",
    "bytes": "toUInt64(many) * size + h(36) % 64",
    "min_bytes": "if(many < 2, toUInt64(many) * size + h(36) % 64, [54, 60, 66, 66, 66, 74][h(37) % 6 + 1])",
    "max_bytes": "least(1514, if(many < 2, toUInt64(many) * size + h(36) % 64, size + h(38) % 1200))",
    "icmp_id": "if(what = 4, s(pod, 39) % 65536, 0)",
    "pid": "if(is_owned, 1000 + s(cityHash64(container_at, h(40) % 3), 41) % 4000000, 0)",
    "uid": "if(is_owned, [0, 999, 1000, 65534][s(pod, 42) % 4 + 1], 0)",
    "command": "if(is_owned, concat('worker-', toString(name_at)), '')",
    "cgroup": "if(is_owned, concat('/kubepods.slice/kubepods-burstable.slice/cri-containerd-', container_id, '.scope'), '')",
    "unit": "if(is_owned, concat('cri-containerd-', substring(container_id, 1, 12), '.scope'), '')",
    "container": "if(is_owned, container_id, '')",
    "run": "lower(hex(s(cityHash64(node_at, intDiv(second, 600000)), 43)))",
    "seq": "toUInt64(second % 600000)",
}
# One of twenty rows is the end of a connection.
_SOCKET = {
    "time": _FLOW["time"],
    "start": "fromUnixTimestamp64Nano(at - toInt64(1e6 * pow(1 - u(44), -1.3) * 3) % 86400000000000, 'UTC')",
    "event": "'close'",
    "node": _FLOW["node"],
    "local_addr": "pod_addr",
    "remote_addr": "peer",
    "local_port": "if(is_client, client_port, port)",
    "remote_port": "if(is_client, port, client_port)",
    "protocol": "6",
    "role": "if(is_client, 'client', 'server')",
    "cookie": "1000000 + n",
    "netns_cookie": "s(pod, 45) % 4096",
    "cgroup_id": "s(container_at, 46) % 1000000",
    "handshake_ns": "srtt_us * 1000 + h(47) % 100000",
    "srtt_us": "toUInt32(if(what = 0, 150, 12000) * pow(1 - u(48), -0.5))",
    "min_rtt_us": "toUInt32(srtt_us * (0.4 + u(49) / 2))",
    "retransmits": "if(u(50) < 0.03, toUInt32(pow(1 - u(51), -0.8)), 0)",
    "bytes_sent": "toUInt64(many) * size",
    "bytes_received": "toUInt64(pow(1 - u(52), -0.9) * 700)",
    "segments_sent": "toUInt32(many) + 2",
    "segments_received": "toUInt32(many) + 1",
    "cwnd": "10 + h(53) % 40",
    "close_reason": "multiIf(what = 5, 'failed', h(54) % 50 = 0, 'reset', h(54) % 200 = 1, 'timeout', h(54) % 2 = 0, 'local', 'remote')",
    **{
        name: _FLOW[name]
        for name in ("pid", "uid", "command", "cgroup", "unit", "container", "run", "seq")
    },
}
_OF_FLOWS = ("time", "node", "interface", "run", "seq")
_VALUES = {
    FLOW: _FLOW,
    SOCKET: _SOCKET,
    **{
        record: {name: _FLOW[name] for name in _OF_FLOWS} | values
        for record, values in ((DNS, DNS_VALUES), (TLS, TLS_VALUES), (DROP, DROP_VALUES))
    },
}
# One row for so many of flows.
SHARE = {FLOW: 1, SOCKET: 20, DNS: 20, TLS: 20, DROP: 50}

# A day is one thread's, others are made meanwhile; a part of it is as large as if it had been
# merged, as those of past days are.
BLOCK_ROWS = 1 << 22
_IN_ONE_THREAD = (
    f"max_threads = 1, max_insert_threads = 1, max_block_size = {BLOCK_ROWS >> 6},"
    f" min_insert_block_size_rows = {BLOCK_ROWS}, min_insert_block_size_bytes = 0,"
    " insert_deduplicate = 0"
)
# Hashes: of the row, of an entity, and of the row as a fraction; addresses out of one.
_FUNCTIONS = (
    "(salt) -> cityHash64({seed}, n, salt) AS h, (of, salt) -> cityHash64({seed}, of, salt) AS s,"
    " (salt) -> cityHash64({seed}, n, salt) / 18446744073709551616. AS u,"
    " (salt) -> cityHash64({seed}, base, salt) AS b,"
    " (salt) -> cityHash64({seed}, base, salt) / 18446744073709551616. AS f,"
    " (of) -> toIPv6(toIPv4(toUInt32(167772160 + of % 16777216))) AS inside,"
    " (of) -> toIPv6(toIPv4(toUInt32(184549376 + of % 3573547008))) AS outside"
)


def days_of(rows: int) -> int:
    """Over how many days *rows* flow rows are spread: as dense as 100 million are over 30."""
    return max(round(rows * 30 / 100_000_000), 1)


def insert(record: Record, rows: int, *, day: int, start_ns: int) -> str:
    """What makes the rows of a *day* that *rows* flows come with: themselves, or their share."""
    days, of_record = days_of(rows), rows // SHARE[record]
    first, end = (of_record * one // days for one in (day, day + 1))
    known = {
        "rows": of_record, "days": days, "start_ns": start_ns, "nodes": NODES, "pods": PODS,
        "services": SERVICES, "clients": CLIENTS, "lanes": LANES, "seed": SEED,
    }  # fmt: skip
    named = [f"{value.format(**known)} AS {name}" for name, value in _SHARED.items()]
    fields = columns(record)
    return (
        f"INSERT INTO {DATABASE}.{record.table} ({', '.join(one.name for one in fields)})"
        f" SETTINGS {_IN_ONE_THREAD}"
        f" WITH {', '.join([_FUNCTIONS.format(**known), *named])}"
        f" SELECT {', '.join(_value(record, one) for one in fields)}"
        f" FROM (SELECT number + {first} AS n FROM numbers({end - first}))"
    )


def _value(record: Record, field: Field) -> str:
    nothing = {NAME: "''", TEXT: "''", ADDR: "toIPv6('::')", f.TUNNEL.kind: "'none'"}.get(
        field.kind, "0"
    )
    return f"{_VALUES[record].get(field.name, nothing)} AS {field.name}"
