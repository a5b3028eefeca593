# SPDX-License-Identifier: Apache-2.0
"""tshark and capinfos read in a file what was written to it."""

import subprocess

import pytest

from hookline.pcapng import EGRESS, INGRESS, LINK_ETHERNET, LINK_RAW_IP, PcapngWriter, Statistics
from tests.lab.captures import fields_of, frames_of

pytestmark = pytest.mark.kernel  # for tshark

NOON_NS = 1_795_435_200_123_456_789
ETHERNET = bytes.fromhex("02484c00000202484c000001 0806 0001080006040001") + bytes(20)
BARE = bytes.fromhex("45000014000000004011000001020304 05060708")


def written(path):
    with path.open("wb") as out:
        writer = PcapngWriter(out, application="hookline capture")
        writer.interface("eth0", link=LINK_ETHERNET, snaplen=262144, chosen_by="arp")
        writer.interface("wg0", link=LINK_RAW_IP, snaplen=64, chosen_by="")
        writer.packet(0, NOON_NS, ETHERNET, original_bytes=len(ETHERNET), direction=INGRESS)
        writer.packet(
            0,
            NOON_NS + 1,
            ETHERNET[:13],
            original_bytes=len(ETHERNET),
            direction=EGRESS,
            comment="curl (pid 7)",
        )
        writer.packet(1, NOON_NS + 2, BARE, original_bytes=9000, direction=EGRESS)
        about = Statistics(
            NOON_NS, NOON_NS + 3, received=70_000, accepted=9, dropped=4, delivered=2
        )
        writer.statistics(0, about)
    return path


def test_tshark_reads_every_packet_as_it_was_written(tmp_path):
    path = written(tmp_path / "file.pcapng")

    rows = fields_of(
        path,
        *("frame.time_epoch", "frame.len", "frame.cap_len", "frame.interface_name"),
        *("frame.packet_flags_direction", "frame.comment", "frame.encap_type"),
    )

    assert [row[0].replace(".", "") for row in rows] == [str(NOON_NS + n) for n in range(3)]
    assert [row[1:6] for row in rows] == [
        ["42", "42", "eth0", "0x00000001", ""],
        ["42", "13", "eth0", "0x00000002", "curl (pid 7)"],
        ["9000", "20", "wg0", "0x00000002", ""],
    ]
    assert rows[0][6] != rows[2][6]


def test_capinfos_reads_the_interfaces_and_their_statistics(tmp_path):
    path = written(tmp_path / "file.pcapng")

    said = subprocess.run(["capinfos", path], check=True, capture_output=True, text=True).stdout

    for line in (
        "Capture application: hookline capture",
        "Number of interfaces in file: 2",
        "Name = eth0",
        "Filter string = arp",
        "Time resolution = 0x09",
        "Number of stat entries = 1",
        "Number of packets = 2",
    ):
        assert line in said


def test_libpcap_reads_it_too(tmp_path):
    path = tmp_path / "file.pcapng"
    with path.open("wb") as out:
        writer = PcapngWriter(out, application="hookline capture")
        writer.interface("eth0", link=LINK_ETHERNET, snaplen=262144, chosen_by="")
        writer.packet(0, NOON_NS, ETHERNET, original_bytes=len(ETHERNET), direction=INGRESS)

    assert frames_of(path) == [ETHERNET]
