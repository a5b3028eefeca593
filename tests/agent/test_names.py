# SPDX-License-Identifier: Apache-2.0
"""Names that real programs ask for become rows, as tshark reads them on the same wire."""

from pathlib import Path

import numpy as np
import pytest

from schemas.fields import DIRECTIONS
from tests.agent.tls_hellos import HYBRID_KEY_BYTES, alpn, hello, key_share, server_name
from tests.lab.agents import agent
from tests.lab.capture import capturing, tshark_fields
from tests.lab.links import link
from tests.lab.names import dig, dns_server, send_raw, tls_client, tls_server
from tests.lab.published import Published, read_published
from tests.lab.tunnels import vxlan

pytestmark = [pytest.mark.kernel, pytest.mark.services]

HYBRID = hello(
    key_share(HYBRID_KEY_BYTES), key_share(600), server_name(b"hybrid.example"), alpn(b"h2")
)


def ask_everything(server: str) -> None:
    dig(server, "www.example.org")
    dig(server, "www.example.org", "AAAA", "+noedns")
    dig(server, "no-such.example")
    dig(server, "WwW.MiXeD.example", "TXT")
    dig(server, ".", "NS")
    dig(server, "+tcp", "over-tcp.example")
    # The first answer is cut off, so dig asks again over TCP.
    dig(server, "long.example")
    dig(server, "+tcp", "+keepopen", "first.example", "A", "second.example", "A")


def dns_rows(published: Published) -> list[list]:
    names = (
        *("query_name", "id", "is_response", "query_type", "response_code", "is_truncated"),
        *("answers", "protocol", "src_port", "dst_port"),
    )
    return [
        list(row)
        for row in zip(*(published.column("dns", one).tolist() for one in names), strict=True)
    ]


def tshark_dns(capture: Path) -> tuple[list[list], list[float]]:
    """The same rows, and the seconds that each answer took."""
    rows, seconds = [], []
    for name, *numbers, took, udp_src, udp_dst, tcp_src, tcp_dst in tshark_fields(
        capture,
        *("dns.qry.name", "dns.id", "dns.flags.response", "dns.qry.type", "dns.flags.rcode"),
        *("dns.flags.truncated", "dns.count.answers", "dns.time"),
        *("udp.srcport", "udp.dstport", "tcp.srcport", "tcp.dstport"),
        only="dns",
    ):
        ports = (udp_src or tcp_src, udp_dst or tcp_dst)
        protocol = 17 if udp_src else 6
        values = [int(number or "0", 0) for number in numbers]
        rows.append(["." if name == "<Root>" else name, *values, protocol, *map(int, ports)])
        seconds.append(float(took or 0))
    return rows, seconds


def test_dns_rows_are_what_tshark_reads(kafka, dual_wire, tmp_path):
    with agent("--interface", dual_wire.near.name, "--dns", "yes", kafka=kafka) as observed:
        with (
            dns_server(dual_wire.far),
            dns_server(dual_wire.far, ipv6=True),
            capturing(dual_wire.far, tmp_path / "far.pcap") as capture,
        ):
            ask_everything(dual_wire.far.ipv4)
            ask_everything(dual_wire.far.ipv6)
            dual_wire.quiet()
        assert observed.stop() == 0

    check_dns(read_published(kafka, observed.name), capture, least=40)


def test_dns_rows_are_complete_at_xdp_and_through_a_perf_buffer(kafka, wire, tmp_path):
    flags = ("--dns", "yes", "--hook", "xdp", "--buffer", "perf")
    with agent("--interface", wire.near.name, *flags, kafka=kafka) as observed:
        with dns_server(wire.far), capturing(wire.far, tmp_path / "far.pcap") as capture:
            ask_everything(wire.far.ipv4)
            wire.quiet()
        assert observed.stop() == 0

    check_dns(read_published(kafka, observed.name), capture, least=20)


def check_dns(published: Published, capture: Path, *, least: int) -> None:
    """Every message is a row as tshark reads it, and answers took at least as long as there."""
    theirs, seconds = tshark_dns(capture)
    rows = dns_rows(published)
    order = np.argsort(published.column("dns", "time"), kind="stable")
    assert [rows[at] for at in order] == theirs
    assert len(rows) >= least
    latencies = published.column("dns", "latency_ns")[order]
    is_response = published.column("dns", "is_response")[order] == 1
    assert ((latencies > 0) == is_response).all()
    # The far end answers sooner than the near end hears of it.
    assert (latencies[is_response] / 1e9 >= np.array(seconds)[is_response]).all()
    assert latencies.max() < 5e9
    directions = np.where(is_response, DIRECTIONS["ingress"], DIRECTIONS["egress"])
    assert (published.column("dns", "direction")[order] == directions).all()
    assert published.column("ledger", "rejected_dns_messages").sum() == 0
    assert not published.batches["tls"]


def test_tls_rows_are_what_tshark_reads(kafka, dual_wire, tmp_path):
    with agent("--interface", dual_wire.near.name, "--tls", "yes", kafka=kafka) as observed:
        with (
            tls_server(dual_wire.far, 8443, tmp_path),
            tls_server(dual_wire.far, 8443, tmp_path, ipv6=True),
            capturing(dual_wire.far, tmp_path / "far.pcap") as capture,
        ):
            for ipv6 in (False, True):
                tls_client(dual_wire, 8443, "www.example.org", ("h2", "http/1.1"), ipv6=ipv6)
                tls_client(dual_wire, 8443, "only-http.example", ("http/1.1",), ipv6=ipv6)
                tls_client(dual_wire, 8443, "xn--bcher-kva.example", ipv6=ipv6)
                tls_client(dual_wire, 8443, None, ipv6=ipv6)
            dual_wire.quiet()
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert tls_rows(published) == tshark_tls(capture)
    assert published.column("tls", "version").tolist() == [0x0304] * 8
    assert set(published.column("tls", "direction")) == {DIRECTIONS["egress"]}
    assert published.column("ledger", "rejected_tls_hellos").sum() == 0
    assert not published.batches["dns"]


def tls_rows(published: Published) -> list[tuple]:
    names = ("server_name", "alpn", "legacy_version", "dst_port")
    return list(zip(*(published.column("tls", one).tolist() for one in names), strict=True))


def tshark_tls(capture: Path) -> list[tuple]:
    lines = tshark_fields(
        capture,
        *("tls.handshake.extensions_server_name", "tls.handshake.extensions_alpn_str"),
        *("tls.handshake.version", "tcp.dstport"),
        occurrence="a",
        only="tls.handshake.type == 1",
        options=("-d", "tcp.port==8443,tls"),
    )
    return [
        (name, protocols, int(version, 0), int(port)) for name, protocols, version, port in lines
    ]


@pytest.mark.parametrize("offloads", [False, True], ids=["segments", "super-packets"])
def test_a_hello_longer_than_a_segment_is_one_row(kafka, lab, tmp_path, offloads):
    with (
        link(offloads=offloads) as wire,
        agent("--interface", wire.near.name, "--tls", "yes", kafka=kafka) as observed,
    ):
        with tls_server(wire.far, 8443, tmp_path):
            send_raw(wire, 8443, HYBRID)
            send_raw(wire, 8443, HYBRID[:30], HYBRID[30:1200], HYBRID[1200:])
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert len(HYBRID) > 1500
    assert tls_rows(published) == [("hybrid.example", "h2", 0x0303, 8443)] * 2
    assert published.column("tls", "is_malformed").tolist() == [0, 0]


def test_names_are_not_reported_unless_asked_for(kafka, wire):
    with agent("--interface", wire.near.name, kafka=kafka) as observed:
        with dns_server(wire.far):
            dig(wire.far.ipv4, "private.example")
        maps = {path.name for path in observed.pins.glob("*/maps/*")}
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert not published.batches["dns"]
    # Not only silent: the programs hold nothing of it.
    assert "flow_slots" in maps
    assert not maps & {"dns", "tls", "named_packets", "dns_streams", "tls_notes"}


def test_a_query_in_a_tunnel_is_a_row_of_the_packet_inside(kafka, wire):
    with (
        vxlan(wire) as inside,
        agent("--interface", wire.near.name, "--dns", "yes", kafka=kafka) as observed,
    ):
        with dns_server(inside.far):
            dig(inside.far.ipv4, "inner.example")
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert published.column("dns", "query_name").tolist() == ["inner.example"] * 2
    assert published.column("dns", "dst_port").tolist()[0] == 53
