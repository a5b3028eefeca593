# SPDX-License-Identifier: Apache-2.0
"""A socket: who opened it, to whom, how well it went, and how it ended.

The kernel reports what it knows of a socket when something becomes of it, not per packet.  Counts
are those of the whole connection until then, so that any row alone tells all of it.
"""

from schemas import fields as f
from schemas.layout import (
    ADDR,
    NAME,
    TIME_NS,
    U8,
    U16,
    U32,
    U64,
    Field,
    Layout,
    Record,
    enum8,
    pad,
    raw,
)

COMMAND_BYTES = 16  # TASK_COMM_LEN, include/linux/sched.h

EVENTS = {"listen": 1, "open": 2, "accept": 3, "update": 4, "close": 5, "fail": 6}
ROLES = {"client": 1, "server": 2, "listener": 3}
ENDINGS = {"none": 0, "local": 1, "remote": 2, "reset": 3, "aborted": 4, "timeout": 5, "failed": 6}

EVENT = Field(
    "event",
    enum8(**EVENTS),
    "`listen`: waits for connections; `open`: a connection is established, or a UDP socket has its"
    " port; `accept`: another process took the connection than the one that listens; `update`: an"
    " interval has passed in which peers acknowledged data; `close`: its end; `fail`: a connection"
    " that was asked for did not come about.  `accept` and UDP sockets have no counts",
)
ROLE = Field(
    "role",
    enum8(**ROLES),
    "`client`: it connected, or sent first; `server`: it was accepted, or bound; `listener`",
)
ENDING = Field(
    "close_reason",
    enum8(**ENDINGS),
    "`none`: not ended, or without a connection; `local`: this side finished first; `remote`: the"
    " peer did; `reset`: the peer refused or reset it, or keepalive gave up; `aborted`: this side"
    " reset it; `timeout`: nobody answered; `failed`: no packet came back before it was given up",
)
LOCAL_ADDR = Field("local_addr", ADDR, "address of this side; IPv4 is mapped into ::ffff/96")
REMOTE_ADDR = Field("remote_addr", ADDR, "address of the peer; zero where there is no single one")
LOCAL_PORT = Field("local_port", U16, "port of this side, 0 while it is not known")
REMOTE_PORT = Field("remote_port", U16, "port of the peer, 0 where there is no single one")
PID = Field("pid", U32, "process, as the host numbers it; 0 where it is not known")
UID = Field("uid", U32, "user that the process ran as")
COMMAND = Field("command", NAME, "name of the process's thread, of at most 15 bytes")
CGROUP_ID = Field("cgroup_id", U64, "the process's cgroup (v2): the inode number of its folder")
NETNS_COOKIE = Field(
    "netns_cookie", U64, "the kernel's number of the network namespace (SO_NETNS_COOKIE)"
)
COOKIE = Field(
    "cookie", U64, "the kernel's number of the socket (SO_COOKIE), which no other has in this boot"
)
HANDSHAKE_NS = Field(
    "handshake_ns",
    U64,
    "client: from the first SYN until established; server: from SYN-ACK to the answer, 0 where the"
    " SYN-ACK was repeated; nanoseconds",
)
SRTT_US = Field("srtt_us", U32, "smoothed round-trip time, microseconds")
MIN_RTT_US = Field("min_rtt_us", U32, "least round-trip time lately, microseconds; 0: unknown")
RETRANSMITS = Field("retransmits", U32, "segments sent again, SYNs included")
BYTES_SENT = Field(
    "bytes_sent", U64, "payload bytes that the peer has acknowledged", f.COUNTER_CODEC
)
BYTES_RECEIVED = Field("bytes_received", U64, "payload bytes received in order", f.COUNTER_CODEC)
SEGMENTS_SENT = Field("segments_sent", U32, "segments sent, those without payload included")
SEGMENTS_RECEIVED = Field("segments_received", U32, "segments received, likewise")
CWND = Field("cwnd", U32, "congestion window, segments")

SOCKET_EVENT = Layout(
    "socket_event",
    "What became of one socket, as it goes through the ring buffer.",
    (
        f.SEEN_NS.of(U64, "CLOCK_MONOTONIC of the event"),
        Field("start_ns", U64, "CLOCK_MONOTONIC of the socket's first event"),
        COOKIE,
        CGROUP_ID,
        NETNS_COOKIE,
        LOCAL_ADDR,
        REMOTE_ADDR,
        HANDSHAKE_NS,
        BYTES_SENT,
        BYTES_RECEIVED,
        Field("command", raw(COMMAND_BYTES), "zero filled"),
        PID,
        UID,
        SRTT_US,
        MIN_RTT_US,
        RETRANSMITS,
        SEGMENTS_SENT,
        SEGMENTS_RECEIVED,
        CWND,
        LOCAL_PORT,
        REMOTE_PORT,
        f.PROTOCOL,
        EVENT,
        ROLE,
        ENDING,
    ),
)

SOCKET_TOTALS = Layout(
    "socket_totals",
    "How many socket events one CPU has reported.",
    (
        Field("events", U64, "put into the ring buffer"),
        Field("lost_events", U64, "not reported for want of room"),
        pad(48),
    ),
)

SOCKET = Record(
    kind="socket",
    table="sockets",
    doc=(
        "What became of TCP and UDP sockets: rows when one is opened and closed, and for"
        " connections that last, one per interval in which the peer acknowledged data.  Counts and"
        " times are those of the whole connection so far; UDP sockets have none."
    ),
    fields=(
        f.TIME.of(TIME_NS, "wall time of the event, nanoseconds since the epoch"),
        Field(
            "start",
            TIME_NS,
            "wall time of the socket's first event, nanoseconds since the epoch",
            f.TIME_CODEC,
        ),
        EVENT,
        LOCAL_ADDR,
        REMOTE_ADDR,
        LOCAL_PORT,
        REMOTE_PORT,
        f.PROTOCOL.of(U8, "IANA protocol number: 6 TCP, 17 UDP"),
        ROLE,
        PID,
        COMMAND,
        UID,
        CGROUP_ID,
        NETNS_COOKIE,
        COOKIE,
        HANDSHAKE_NS,
        SRTT_US,
        MIN_RTT_US,
        RETRANSMITS,
        BYTES_SENT,
        BYTES_RECEIVED,
        SEGMENTS_SENT,
        SEGMENTS_RECEIVED,
        CWND,
        ENDING,
        f.CGROUP,
        f.UNIT,
        f.CONTAINER,
    ),
    order_by="toStartOfMinute(time), node, local_addr, remote_addr, time",
)
