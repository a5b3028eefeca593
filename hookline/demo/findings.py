# SPDX-License-Identifier: Apache-2.0
"""Questions that the demo's history answers, with the SQL that does it.

A packet between two hosts is counted twice, where it enters the switch and where it leaves, so
each question looks at one direction.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One question in words and in SQL."""

    question: str
    sql: str


FINDINGS = (
    Finding(
        "Who sends most to whom?",
        """\
SELECT src_addr, dst_addr, least(src_port, dst_port) AS port, sum(packets) AS total_packets,
       formatReadableSize(sum(bytes)) AS amount
FROM flows
WHERE direction = 'ingress' AND protocol IN (6, 17)
GROUP BY ALL
ORDER BY sum(bytes) DESC
LIMIT 5""",
    ),
    Finding(
        "Who opens how many connections to the web server, and how fast?",
        """\
SELECT src_addr, uniqExact(src_port) AS connections,
       round(connections / dateDiff('millisecond', min(time), max(end)) * 1000, 1) AS per_second
FROM flows
WHERE direction = 'ingress' AND protocol = 6 AND dst_port = 80
GROUP BY ALL
HAVING connections > 2
ORDER BY connections DESC""",
    ),
    Finding(
        "Which programs talk over TCP, in which role, and how long does a handshake take?",
        """\
SELECT command, role, uniqExact(cookie) AS connections, uniqExact(pid) AS processes,
       formatReadableSize(max(bytes_sent)) AS most_sent,
       round(avgIf(handshake_ns, handshake_ns > 0) / 1000) AS handshake_us
FROM sockets
WHERE protocol = 6 AND event = 'close' AND (local_port IN (80, 9000) OR remote_port IN (80, 9000))
GROUP BY ALL
ORDER BY connections DESC""",
    ),
    Finding(
        "Who asks for which names, and how fast are they answered?",
        """\
SELECT dst_addr AS who, query_name, count() AS answers, any(response_code) AS code,
       round(avg(latency_ns) / 1000) AS latency_us
FROM dns
WHERE direction = 'ingress' AND is_response
GROUP BY ALL
ORDER BY answers DESC
LIMIT 5""",
    ),
    Finding(
        "Who pings whom, over IPv4 and IPv6?",
        """\
SELECT src_addr, dst_addr, sum(packets) AS echo_requests
FROM flows
WHERE direction = 'ingress'
  AND ((protocol = 1 AND icmp_type = 8) OR (protocol = 58 AND icmp_type = 128))
GROUP BY ALL
ORDER BY ALL""",
    ),
    Finding(
        "Does anybody scan ports?",
        """\
SELECT src_addr, dst_addr, uniqExact(dst_port) AS ports,
       dateDiff('millisecond', min(time), max(end)) AS during_ms
FROM flows
WHERE direction = 'ingress' AND protocol = 6 AND bitAnd(tcp_flags, 2) != 0
GROUP BY ALL
HAVING ports > 100""",
    ),
    Finding(
        "Do the books balance: interface counters, what the hooks saw, what the rows say?",
        """\
SELECT interface, direction, sum(link_packets) AS counted_by_interface,
       sum(seen_packets) AS seen_by_hook, sum(flow_packets) AS in_rows,
       in_rows - counted_by_interface AS difference
FROM ledger
GROUP BY ALL
ORDER BY ALL""",
    ),
)
