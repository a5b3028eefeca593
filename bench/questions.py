# SPDX-License-Identifier: Apache-2.0
"""Questions that people ask of a history, of the rows and, where one can answer, of a rollup.

Both forms of a question have the same answer.  Values in braces are those of `Subjects`; `since`
and `day` are the beginnings of the history and of its last whole day.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question, as the rows are asked and as a rollup is."""

    about: str
    rows: str
    rollup: str = ""


_PORT = "if(src_port = 0 OR dst_port = 0, 0, least(src_port, dst_port))"
_TOP = "GROUP BY ALL ORDER BY amount DESC, 1 LIMIT 20"

QUESTIONS = (
    Question(
        "addresses that sent most",
        f"SELECT src_addr, sum(bytes) AS amount FROM flows WHERE direction = 'egress' {_TOP}",
        "SELECT address, sum(bytes) AS amount FROM addresses_1d"
        f" WHERE side = 'src' AND direction = 'egress' {_TOP}",
    ),
    Question(
        "the same of the last day",
        "SELECT src_addr, sum(bytes) AS amount FROM flows"
        f" WHERE direction = 'egress' AND time >= '{{day}}' {_TOP}",
        "SELECT address, sum(bytes) AS amount FROM addresses_1d"
        f" WHERE side = 'src' AND direction = 'egress' AND date >= toDate('{{day}}') {_TOP}",
    ),
    Question(
        "edges with most bytes",
        "SELECT src_addr, dst_addr, sum(bytes) AS amount FROM flows WHERE direction = 'egress'"
        " GROUP BY ALL ORDER BY amount DESC, 1, 2 LIMIT 20",
        "SELECT src_addr, dst_addr, sum(bytes) AS amount FROM edges_1d WHERE direction = 'egress'"
        " GROUP BY ALL ORDER BY amount DESC, 1, 2 LIMIT 20",
    ),
    Question(
        "the busiest address, sent by day",
        "SELECT toDate(time) AS d, sum(bytes), sum(packets), count() FROM flows"
        " WHERE src_addr = toIPv6('{busy}') AND direction = 'egress' GROUP BY d ORDER BY d",
        "SELECT date AS d, sum(bytes), sum(packets), sum(flows) FROM addresses_1d WHERE"
        " side = 'src' AND address = toIPv6('{busy}') AND direction = 'egress' GROUP BY d ORDER BY d",
    ),
    Question(
        "the busiest address, with whom",
        "SELECT if(src_addr = toIPv6('{busy}'), dst_addr, src_addr) AS peer, sum(bytes) AS amount"
        " FROM flows WHERE (src_addr = toIPv6('{busy}') OR dst_addr = toIPv6('{busy}'))"
        f" AND direction = 'egress' {_TOP}",
        "SELECT if(src_addr = toIPv6('{busy}'), dst_addr, src_addr) AS peer, sum(bytes) AS amount"
        " FROM edges_1d WHERE (src_addr = toIPv6('{busy}') OR dst_addr = toIPv6('{busy}'))"
        f" AND direction = 'egress' {_TOP}",
    ),
    Question(
        "a rare address, with whom",
        "SELECT if(src_addr = toIPv6('{rare}'), dst_addr, src_addr) AS peer, sum(bytes) AS amount"
        f" FROM flows WHERE src_addr = toIPv6('{{rare}}') OR dst_addr = toIPv6('{{rare}}') {_TOP}",
        "SELECT if(src_addr = toIPv6('{rare}'), dst_addr, src_addr) AS peer, sum(bytes) AS amount"
        f" FROM edges_1d WHERE src_addr = toIPv6('{{rare}}') OR dst_addr = toIPv6('{{rare}}') {_TOP}",
    ),
    Question(
        "one five-tuple, minute by minute",
        "SELECT toStartOfMinute(time) AS m, sum(bytes), sum(packets) FROM flows"
        " WHERE src_addr = toIPv6('{src}') AND dst_addr = toIPv6('{dst}')"
        " AND src_port = {src_port} AND dst_port = {dst_port} AND protocol = 6 GROUP BY m ORDER BY m",
    ),
    Question(
        "one port: who serves it, to how many",
        "SELECT dst_addr, uniqExact(src_addr) AS amount FROM flows WHERE"
        f" dst_port = 5432 AND src_port > 5432 {_TOP}",
        "SELECT dst_addr, uniqExact(src_addr) AS amount FROM edges_1d WHERE"
        f" service_port = 5432 AND server = 'dst' {_TOP}",
    ),
    Question(
        "a node's bandwidth, hour by hour",
        "SELECT toStartOfHour(time) AS h, interface = 'eth0' AS e, direction, sum(bytes) * 8 / 3600"
        " FROM flows WHERE node = 'node-3' GROUP BY h, e, direction ORDER BY h, e, direction",
        "SELECT toStartOfHour(minute) AS h, interface = 'eth0' AS e, direction, sum(bytes) * 8 / 3600"
        " FROM flows_1m WHERE node = 'node-3' GROUP BY h, e, direction ORDER BY h, e, direction",
    ),
    Question(
        "the same of the last day, by the minute",
        "SELECT toStartOfMinute(time) AS m, direction, sum(bytes) * 8 / 60 FROM flows"
        " WHERE node = 'node-3' AND time >= '{day}' GROUP BY m, direction ORDER BY m, direction",
        "SELECT minute AS m, direction, sum(bytes) * 8 / 60 FROM flows_1m"
        " WHERE node = 'node-3' AND minute >= '{day}' GROUP BY m, direction ORDER BY m, direction",
    ),
    Question(
        "mix of protocols and ports by day",
        f"SELECT toDate(time) AS d, protocol, {_PORT} AS p, sum(bytes) AS amount FROM flows"
        " GROUP BY d, protocol, p ORDER BY d, amount DESC, p LIMIT 10 BY d",
        "SELECT date AS d, protocol, service_port AS p, sum(bytes) AS amount FROM edges_1d"
        " GROUP BY d, protocol, p ORDER BY d, amount DESC, p LIMIT 10 BY d",
    ),
    Question(
        "sources of the last day, never seen before",
        "SELECT count() FROM (SELECT src_addr FROM flows GROUP BY src_addr"
        " HAVING min(time) >= '{day}')",
        "SELECT count() FROM (SELECT address FROM addresses_1d WHERE side = 'src' GROUP BY address"
        " HAVING min(date) >= toDate('{day}'))",
    ),
    Question(
        "new peers of the busiest address, last day",
        "SELECT if(src_addr = toIPv6('{busy}'), dst_addr, src_addr) AS peer, sum(bytes) AS amount"
        " FROM flows WHERE src_addr = toIPv6('{busy}') OR dst_addr = toIPv6('{busy}')"
        " GROUP BY peer HAVING min(time) >= '{day}' ORDER BY amount DESC, peer LIMIT 20",
        "SELECT if(src_addr = toIPv6('{busy}'), dst_addr, src_addr) AS peer, sum(bytes) AS amount"
        " FROM edges_1d WHERE src_addr = toIPv6('{busy}') OR dst_addr = toIPv6('{busy}')"
        " GROUP BY peer HAVING min(date) >= toDate('{day}') ORDER BY amount DESC, peer LIMIT 20",
    ),
    Question(
        "who sends to an external network (/8)",
        "SELECT src_addr, sum(bytes) AS amount FROM flows WHERE dst_addr BETWEEN"
        f" toIPv6('::ffff:93.0.0.0') AND toIPv6('::ffff:93.255.255.255') {_TOP}",
        "SELECT src_addr, sum(bytes) AS amount FROM edges_1d WHERE dst_addr BETWEEN"
        f" toIPv6('::ffff:93.0.0.0') AND toIPv6('::ffff:93.255.255.255') {_TOP}",
    ),
    Question(
        "processes with most bytes",
        f"SELECT command, sum(bytes) AS amount FROM flows WHERE direction = 'egress' {_TOP}",
        f"SELECT command, sum(bytes) AS amount FROM edges_1d WHERE direction = 'egress' {_TOP}",
    ),
    Question(
        "matrix: a node's units and their services",
        f"SELECT unit, {_PORT} AS p, sum(bytes) AS amount FROM flows WHERE node = 'node-3'"
        " AND time >= '{week}' GROUP BY unit, p ORDER BY amount DESC, unit, p LIMIT 100",
        "SELECT unit, service_port AS p, sum(bytes) AS amount FROM edges_1d WHERE node = 'node-3'"
        " AND date >= toDate('{week}') GROUP BY unit, p ORDER BY amount DESC, unit, p LIMIT 100",
    ),
    Question(
        "scans: sources by ports tried, last day",
        f"SELECT src_addr, uniqExact(dst_addr, {_PORT}) AS amount FROM flows"
        f" WHERE time >= '{{day}}' AND direction = 'ingress' {_TOP}",
        "SELECT src_addr, uniqExact(dst_addr, service_port) AS amount FROM edges_1d"
        f" WHERE date >= toDate('{{day}}') AND direction = 'ingress' {_TOP}",
    ),
    Question(
        "edges that were reset",
        "SELECT count() FROM (SELECT node, src_addr, dst_addr FROM flows"
        " WHERE bitAnd(tcp_flags, 4) GROUP BY ALL)",
        "SELECT count() FROM (SELECT node, src_addr, dst_addr FROM edges_1d"
        " WHERE bitAnd(tcp_flags, 4) GROUP BY ALL)",
    ),
    Question(
        "the biggest flows of five minutes",
        "SELECT node, interface, direction, src_addr, src_port, dst_addr, dst_port, protocol,"
        " sum(packets), sum(bytes) AS amount, groupBitOr(tcp_flags), any(command) FROM flows"
        " WHERE time >= '{minutes}' GROUP BY node, interface, direction, src_addr, src_port,"
        " dst_addr, dst_port, protocol ORDER BY amount DESC LIMIT 20",
    ),
    Question(
        "slowest services: p99 of RTT, retransmits",
        "SELECT remote_addr, quantileTDigest(0.99)(srtt_us) AS amount, sum(retransmits)"
        " FROM sockets WHERE event = 'close' AND role = 'client' GROUP BY remote_addr"
        " HAVING count() > 100 ORDER BY amount DESC LIMIT 20",
    ),
    Question(
        "longest connections, and how they ended",
        "SELECT local_addr, remote_addr, close_reason, dateDiff('second', start, time) AS amount,"
        " bytes_sent FROM sockets WHERE event = 'close' ORDER BY amount DESC LIMIT 20",
    ),
    Question(
        "names asked for most, and how slow",
        "SELECT query_name, count() AS amount, quantileTDigest(0.9)(latency_ns) FROM dns"
        " WHERE is_response GROUP BY query_name ORDER BY amount DESC, 1 LIMIT 20",
    ),
    Question(
        "who asks for names that there are not",
        "SELECT dst_addr, uniqExact(query_name), count() AS amount FROM dns"
        f" WHERE is_response AND response_code = 3 {_TOP}",
    ),
    Question(
        "one TLS name: who went there, since when",
        "SELECT src_addr, count() AS amount, min(time), max(time) FROM tls"
        f" WHERE server_name = '{{name}}' {_TOP}",
    ),
    Question(
        "clients that offer TLS 1.0 at most",
        "SELECT src_addr, uniqExact(server_name), count() AS amount FROM tls"
        f" WHERE version < 771 {_TOP}",
    ),
    Question(
        "what each rule refused, day by day",
        "SELECT toDate(time) AS d, rule, verdict, count() FROM drops GROUP BY d, rule, verdict"
        " ORDER BY d, rule, verdict",
    ),
    Question(
        "one rule: whom it refused, what they tried",
        "SELECT src_addr, uniqExact(dst_addr, dst_port), count() AS amount FROM drops"
        f" WHERE rule = 'rule-3' {_TOP}",
    ),
)
