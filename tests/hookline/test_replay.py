# SPDX-License-Identifier: Apache-2.0
"""`hookline replay` as its users run it: from a file to rows, with and without `hookline up`."""

import struct
import subprocess

import pytest

from tests.hookline.ups import command, hookline, up
from tests.lab.capture_files import START_S, interface, packet, pcap, section
from tests.lab.links import unique_name
from tests.lab.published import read_published

pytestmark = [pytest.mark.kernel, pytest.mark.services]

HOSTS = bytes.fromhex("020000000001020000000002")
UDP4 = bytes.fromhex("4500001c0000000040110000c6120001c612000204000fa000080000")
FRAME = HOSTS + b"\x08\0" + UDP4
SUMS = "SELECT node, count(), sum(packets), sum(bytes) FROM flows GROUP BY node ORDER BY node"


def answer(data, sql: str) -> str:
    return hookline("query", "--format=csv", f"--data={data}", sql).stdout


def test_a_capture_becomes_rows_once_and_again_only_where_that_is_asked_for(lab, tmp_path):
    data = tmp_path / "data"
    capture = pcap(tmp_path / "office.pcap", [FRAME] * 5, tail=b"cut")

    first = hookline("replay", f"--data={data}", str(capture))
    refused = hookline("replay", f"--data={data}", str(capture))
    again = hookline("replay", f"--data={data}", "--again", "--interval=1m", str(capture))

    assert first.returncode == 0, first.stderr
    assert "office.pcap: 6 packets, 210 B from 2011-03-13 07:06:40 to" in first.stdout
    assert "it ends within its last packet; what comes before is replayed" in first.stderr
    assert (
        "node office: read 6 packets; 5 in 5 flow rows,"
        " rejected 1 (1 cut off by the end of the file)"
    ) in first.stdout
    assert refused.returncode == 1
    assert refused.stderr.endswith(
        "hookline replay: node office has rows already; choose another --node, or load them beside"
        " with --again\n"
    )
    assert again.returncode == 0, again.stderr
    assert answer(data, SUMS).endswith('"office",6,10,420\n')
    listed = hookline("flows", "--node=office", "--since=all", f"--data={data}")
    assert "198.18.0.1:1024  198.18.0.2:4000  udp" in listed.stdout


def test_what_runs_on_the_directory_takes_the_capture_and_goes_on(wire, tmp_path):
    data = tmp_path / "data"
    file = tmp_path / "two.pcapng"
    file.write_bytes(
        section()
        + interface("<", 1, given={2: b"eth0"})
        + interface("<", 101, given={2: b"tun0"})
        + packet("<", 0, START_S * 10**6, FRAME)
        + packet("<", 1, START_S * 10**6, UDP4, given={2: struct.pack("<I", 2)})
    )
    with up(data, f"--interface={wire.near.name}", "--node=here") as running:
        done = hookline("replay", f"--data={data}", "--node=there", str(file))
        rows = answer(
            data,
            "SELECT interface, toString(direction), packets, bytes, toUnixTimestamp(time)"
            " FROM flows WHERE node = 'there' ORDER BY interface",
        )
        code, said = running.stop()

    assert done.returncode == 0, done.stderr
    assert rows.endswith(f'"eth0","ingress",1,42,{START_S}\n"tun0","egress",1,28,{START_S}\n')
    assert code == 0, said


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty: not even the header of a capture is there"),
        (b"hello, I am no capture", "is neither pcap nor pcapng; convert it"),
    ],
)
def test_what_is_no_capture_is_refused_before_anything_starts(tmp_path, content, reason):
    file = tmp_path / "a.pcap"
    file.write_bytes(content)

    refused = hookline("replay", f"--data={tmp_path / 'new'}", str(file))

    assert refused.returncode == 1
    assert refused.stderr.startswith("hookline replay: ")
    assert reason in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_capture_without_packets_is_no_error(tmp_path):
    done = hookline("replay", f"--data={tmp_path / 'new'}", str(pcap(tmp_path / "a.pcap", [])))

    assert done.returncode == 0
    assert "node a: read 0 packets; 0 in 0 flow rows, rejected 0" in done.stdout
    assert not (tmp_path / "new").exists()


def test_standard_input_is_a_capture_too(kafka, lab, tmp_path):
    content = pcap(tmp_path / "a.pcap", [FRAME] * 3).read_bytes()

    done = subprocess.run(
        command("replay", f"--kafka={kafka}", "-"),
        input=content,
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert b"node stdin: read 3 packets; 3 in 3 flow rows, rejected 0" in done.stdout


def test_a_cluster_gets_the_rows_and_nothing_else_is_started(kafka, lab, tmp_path):
    capture = pcap(tmp_path / "a.pcap", [FRAME] * 3)
    node = unique_name()

    done = hookline("replay", f"--kafka={kafka}", f"--node={node}", str(capture))

    assert done.returncode == 0, done.stderr
    assert read_published(kafka, node).sums("ingress") == (3, 126)
