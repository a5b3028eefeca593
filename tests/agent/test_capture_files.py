# SPDX-License-Identifier: Apache-2.0
"""Capture files are read as far as they can be, and what cannot be is named."""

import bz2
import gzip
import lzma
import os
import struct
from pathlib import Path
from random import Random

import pytest

from agent.replay.capture import CUT_OFF, NO_INTERFACE, TOO_SHORT
from agent.replay.files import CaptureError
from agent.replay.timeline import BAD_TIME, Loaded, load_captures, stem
from tests.lab.capture_files import (
    MICROSECONDS,
    NANOSECONDS,
    PATCHED,
    START_S,
    interface,
    old_packet,
    packet,
    pcap,
    section,
    simple_packet,
)

FRAMES = [bytes(60), bytes(61), bytes(62)]
START_NS = START_S * 10**9
ETHERNET, RAW, USB = 1, 101, 220


def times(loaded: Loaded) -> list[int]:
    return [one - START_NS for one in loaded.timeline.time_ns.tolist()]


def names(loaded: Loaded) -> list[str]:
    return list(loaded.points.taken.values())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("magic", "unit_ns"), [(MICROSECONDS, 1000), (NANOSECONDS, 1), (PATCHED, 1000)]
)
def test_classic_files_have_two_byte_orders_and_two_units(tmp_path, order, magic, unit_ns):
    path = pcap(tmp_path / "a.pcap", FRAMES, order=order, magic=magic)

    loaded = load_captures([path])

    assert times(loaded) == [0, 10**9 + unit_ns, 2 * (10**9 + unit_ns)]
    assert loaded.timeline.length.tolist() == [60, 61, 62]
    assert names(loaded) == ["a"]


@pytest.mark.parametrize("order", ["<", ">"])
def test_interfaces_of_pcapng_have_names_clocks_and_offsets_of_their_own(tmp_path, order):
    file = tmp_path / "a.pcapng"
    offset = struct.pack(f"{order}q", START_S)
    file.write_bytes(
        section(order)
        + interface(order, ETHERNET, given={2: b"eth0"})
        + interface(order, RAW, given={2: b"tun0\0", 9: b"\x09"})
        + interface(order, ETHERNET, given={9: b"\x8a", 14: offset})
        + interface(order, ETHERNET, given={9: b"\x0c"})
        + packet(order, 0, START_S * 10**6 + 1, FRAMES[0])
        + packet(order, 1, START_NS + 2001, FRAMES[1])
        + packet(order, 2, 3 << 10 | 512, FRAMES[2])
        + packet(order, 3, START_S * 10**12 % 2**64, FRAMES[2])
    )

    loaded = load_captures([file])

    assert times(loaded)[-3:] == [1000, 2001, 3_500_000_000]
    assert names(loaded) == ["eth0", "tun0", "a:0", "a:1"]


def test_sections_may_differ_in_byte_order_and_declare_the_same_interface(tmp_path):
    file = tmp_path / "a.pcapng"
    file.write_bytes(
        b"".join(
            section(order)
            + interface(order, ETHERNET, given={2: b"eth0"})
            + packet(order, 0, START_S * 10**6, FRAMES[0])
            for order in "<><"
        )
    )

    loaded = load_captures([file])

    assert names(loaded) == ["eth0"]
    assert times(loaded) == [0, 0, 0]


def test_packets_say_their_direction(tmp_path):
    file = tmp_path / "a.pcapng"
    flags = [{}, {2: struct.pack("<I", 1)}, {2: struct.pack("<I", 2)}, {2: struct.pack("<I", 3)}]
    file.write_bytes(
        section()
        + interface("<", ETHERNET)
        + b"".join(packet("<", 0, START_S * 10**6, FRAMES[0], given=one) for one in flags)
    )

    loaded = load_captures([file])

    (pair,) = loaded.points.taken
    points = [pair.ingress, pair.ingress, pair.egress, pair.ingress]
    assert loaded.timeline.point.tolist() == points


def test_simple_and_old_packets_are_packets_too(tmp_path):
    file = tmp_path / "a.pcapng"
    file.write_bytes(
        section()
        + interface("<", ETHERNET, snap_bytes=20)
        + old_packet("<", 0, START_S * 10**6, FRAMES[0])
        + simple_packet("<", FRAMES[1][:20], 61)
    )

    loaded = load_captures([file])

    assert loaded.timeline.length.tolist() == [60, 61]
    assert loaded.timeline.fed_bytes.tolist() == [60, 20]
    # It has no time; the packet before it had.
    assert times(loaded) == [0, 0]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_are_unpacked(tmp_path, pack):
    plain = pcap(tmp_path / "a.pcap", FRAMES)
    packed = tmp_path / "b.pcap.gz"
    packed.write_bytes(pack(plain.read_bytes()))

    assert len(load_captures([packed]).timeline) == 3


def test_of_damaged_compressed_data_the_beginning_is_read(tmp_path):
    plain = pcap(tmp_path / "a.pcap", [bytes(60)] * 5)
    packed = tmp_path / "b.pcap.gz"
    # Uncompressed inside, so that the damage cuts off what is behind it and nothing more.
    packed.write_bytes(gzip.compress(plain.read_bytes(), 0)[:-100])

    loaded = load_captures([packed])

    assert 0 < len(loaded.timeline) < 5
    assert "damaged or ends early" in loaded.notes[0]


def test_of_damaged_bzip2_the_beginning_is_read(tmp_path):
    random = Random(1)
    whole = pcap(tmp_path / "a.pcap", [random.randbytes(1500) for _ in range(2000)])
    packed = bytearray(bz2.compress(whole.read_bytes()))
    packed[len(packed) * 3 // 4] ^= 0xFF
    damaged = tmp_path / "damaged.bz2"
    damaged.write_bytes(packed)

    loaded = load_captures([damaged])

    assert 100 < len(loaded.timeline) < 2000
    assert "damaged" in loaded.notes[0]


def test_a_file_whose_name_is_no_text_is_read_and_named_as_far_as_it_can_be(tmp_path):
    path = pcap(tmp_path / os.fsdecode(b"caf\xe9.pcap"), FRAMES)

    loaded = load_captures([path])

    assert names(loaded) == ["caf\ufffd"]


@pytest.mark.parametrize("tail", [b"abc", struct.pack("<IIII", START_S, 0, 100, 100) + b"abc"])
def test_a_packet_that_the_end_cuts_off_is_rejected(tmp_path, tail):
    loaded = load_captures([pcap(tmp_path / "a.pcap", FRAMES, tail=tail)])

    assert len(loaded.timeline) == 3
    assert loaded.rejected == {CUT_OFF: 1}
    assert loaded.packets_read == 4
    assert loaded.notes == [f"{tmp_path}/a.pcap: it ends within its last packet"]


def test_damage_ends_a_file_and_its_place_is_named(tmp_path):
    tail = struct.pack("<IIII", START_S, 0, 1 << 30, 100) + bytes(100)

    loaded = load_captures([pcap(tmp_path / "a.pcap", FRAMES, tail=tail)])

    assert len(loaded.timeline) == 3
    assert "it is damaged at byte 255, where a packet has 1073741824 bytes" in loaded.notes[0]


def test_packets_of_pcapng_that_make_no_sense_are_rejected_with_their_reasons(tmp_path):
    file = tmp_path / "a.pcapng"
    short = bytearray(packet("<", 0, START_S * 10**6, FRAMES[0]))
    short[20:24] = struct.pack("<I", 1000)  # captured
    file.write_bytes(
        section()
        + interface("<", ETHERNET)
        + interface("<", USB)
        + packet("<", 0, START_S * 10**6, FRAMES[0])
        + packet("<", 1, START_S * 10**6, FRAMES[0])
        + packet("<", 7, START_S * 10**6, FRAMES[0])
        + packet("<", 0, (1 << 63) + 1, FRAMES[0])
        + bytes(short)
        + packet("<", 0, START_S * 10**6, FRAMES[0])[:-8]
    )

    loaded = load_captures([file])

    assert len(loaded.timeline) == 1
    assert loaded.rejected == {
        "of link type 220 (USB)": 1,
        NO_INTERFACE: 1,
        BAD_TIME: 1,
        TOO_SHORT: 1,
        CUT_OFF: 1,
    }


def test_packets_out_of_order_and_of_several_files_are_put_in_order(tmp_path):
    first = pcap(tmp_path / "a.pcap", FRAMES, times=[(START_S + 5, 0), (START_S, 0), (START_S, 1)])
    second = pcap(tmp_path / "b.pcap", FRAMES[:1], times=[(START_S + 1, 0)])

    loaded = load_captures([first, second])

    assert times(loaded) == [0, 1000, 10**9, 5 * 10**9]
    assert loaded.timeline.length.tolist() == [61, 62, 60, 60]
    assert names(loaded) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty: not even the header of a capture is there"),
        (b"\xd4\xc3\xb2\xa1\2\0", "ends within the header of a pcap file"),
        (b"hello, I am no capture", "is neither pcap nor pcapng; convert it: editcap"),
        (section()[:8] + bytes(20), "is no pcapng file: its byte order is unknown"),
    ],
)
def test_a_file_that_is_no_capture_is_refused_in_one_line(tmp_path, content, reason):
    file = tmp_path / "a.pcap"
    file.write_bytes(content)

    with pytest.raises(CaptureError) as refusal:
        load_captures([file])

    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_unknown_link_type_is_named(tmp_path):
    with pytest.raises(CaptureError, match=r"link type 127 \(802\.11 with radiotap\)"):
        load_captures([pcap(tmp_path / "a.pcap", FRAMES, link_type=127)])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CaptureError, match="cannot read /no/such.pcap: No such file"):
        load_captures([Path("/no/such.pcap")])


@pytest.mark.parametrize(
    ("name", "shorter"),
    [("a.pcap", "a"), ("a.b.pcapng.gz", "a.b"), (".pcap", ".pcap"), ("a", "a"), ("-", "stdin")],
)
def test_the_node_is_named_after_the_file(name, shorter):
    assert stem(Path(name)) == shorter
