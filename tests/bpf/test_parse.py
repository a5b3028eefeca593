# SPDX-License-Identifier: Apache-2.0
"""Every shape of frame, whole and damaged: the kernel's rows are those of a second dissector.

HOOKLINE_FRAMES asks for more frames, HOOKLINE_SEED for those of another run.  The kernel's test
run takes no frame under 14 bytes, and IP without a whole IP header only for XDP; so no frame here
ends inside Ethernet's header, and XDP alone gets those that end inside their first IP header.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from itertools import islice
from typing import NamedTuple

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from tests.bpf.books import Books, KernelBooks, books_of_oracle, identities_from
from tests.bpf.dissect import Dissector
from tests.bpf.frames import Frames
from tests.bpf.programs import POINT, Programs, loaded
from tests.bpf.seeds import FRAMES, SEED, seed  # noqa: F401 - the fixture is used by its import
from tests.bpf.tunnel_shapes import VXLAN_PORTS

pytestmark = pytest.mark.kernel

TC_ACT_UNSPEC, XDP_PASS = 0xFFFFFFFF, 2
VERDICTS = {"hook_ingress": TC_ACT_UNSPEC, "hook_egress": TC_ACT_UNSPEC, "hook_xdp": XDP_PASS}
# After so many frames the maps are new, so that what differs is found again among a few.
CHUNK = 20_000


class Feed(NamedTuple):
    """Where frames go in, and which part of all frames that is."""

    share: float
    hook: str = "hook_ingress"
    link_bytes: int = 14

    def frames(self) -> Iterator[bytes]:
        """An endless supply of those that the kernel's test run takes."""
        for frame in shapes(has_link=self.link_bytes > 0).endless(SEED):
            if self.hook == "hook_xdp" or not is_stunted(frame):
                yield frame


@cache
def shapes(*, has_link: bool) -> Frames:
    """Building them takes seconds, so all tests share them."""
    return Frames(SEED, has_link=has_link, pool=1000 if has_link else 250)


def is_stunted(frame: bytes) -> bool:
    return len(frame) < {b"\x08\x00": 34, b"\x86\xdd": 54}.get(frame[12:14], 14)


# Each test run of an XDP program stops the machine for a moment, so there are few.
FEEDS = (
    Feed(0.22),
    Feed(0.02, hook="hook_egress"),
    Feed(0.08, link_bytes=0),
    Feed(0.01, hook="hook_xdp"),
    Feed(0.005, hook="hook_xdp", link_bytes=0),
)


@pytest.mark.parametrize("tunnels", ["inner", "outer", "both"])
def test_frames_make_the_rows_that_the_oracle_says(lab, tunnels):
    supplies = [feed.frames() for feed in FEEDS]
    for _ in range(0, FRAMES, CHUNK):
        # Each feed has a hook point and a dissector of its own, so they share no fragments.
        with loading(tunnels) as programs:
            books = KernelBooks(programs)
            for number, (feed, supply) in enumerate(zip(FEEDS, supplies, strict=True)):
                frames = list(islice(supply, int(min(CHUNK, FRAMES) * feed.share)))
                expected = books_of_oracle(dissector(feed, tunnels), frames)
                found = fed(programs, books, feed, frames, point=POINT + 2 * number)

                assert sum(measures.packets for measures in found.rows.values()) == len(frames)
                assert not expected.differences(found)[:5], first_difference(feed, tunnels, frames)


@pytest.mark.parametrize("feed", [Feed(1), Feed(1, hook="hook_egress")], ids=["ingress", "egress"])
def test_frames_of_flows_that_have_slots_are_counted_as_the_first_ones_were(lab, feed):
    frames = list(islice(feed.frames(), 500))
    point = POINT + (feed.hook == "hook_egress")
    with loading("inner") as programs:
        books = KernelBooks(programs)
        fed(programs, books, feed, frames)
        books.begin_interval()
        # All but the first of these run while the slot has packets of this interval.
        for frame in frames:
            programs.run(frame, hook=feed.hook, repeat=3)
        found = books.take(point)
    oracle = dissector(feed, "inner")
    books_of_oracle(oracle, frames)
    expected = books_of_oracle(oracle, [frame for frame in frames for _ in range(3)])

    assert not expected.differences(found)[:5]


def test_samples_have_the_rows_of_their_frames_and_their_first_bytes(lab):
    frames = list(islice(FEEDS[0].frames(), 1000))
    with loaded(sample_one_in=1) as programs:
        for frame in frames:
            programs.run(frame)
        columns = KernelBooks(programs).packets()
    oracle = Dissector("inner")
    readings = [oracle.read(frame) for frame in frames]

    assert columns["bytes"].tolist() == [len(frame) for frame in frames]
    assert columns["header_bytes"].tolist() == [min(len(frame), 96) for frame in frames]
    assert [bytes(header) for header in columns["header"]] == [
        frame[:96].ljust(96, b"\0") for frame in frames
    ]
    assert identities_from(columns) == [reading.row for reading in readings]
    for name in ("tcp_flags", "hop_limit"):
        assert columns[name].tolist() == [getattr(reading, name) for reading in readings]


def test_no_frame_is_ever_stopped(lab):
    frames = list(islice(FEEDS[0].frames(), 50))
    with loaded() as programs:
        for hook, verdict in VERDICTS.items():
            assert {programs.run(frame, hook=hook) for frame in frames} == {verdict}


def loading(tunnels: str) -> AbstractContextManager[Programs]:
    points = POINT + 2 * len(FEEDS)
    return loaded(tunnels=tunnels, hook_points=points, vxlan_ports=VXLAN_PORTS)


def dissector(feed: Feed, tunnels: str) -> Dissector:
    return Dissector(tunnels, link_bytes=feed.link_bytes, vxlan_ports=VXLAN_PORTS)


def fed(
    programs: Programs,
    books: KernelBooks,
    feed: Feed,
    frames: Iterable[bytes],
    *,
    point: int = POINT,
) -> Books:
    programs.know_loopback(link_bytes=feed.link_bytes, point=point)
    for frame in frames:
        programs.run(frame, hook=feed.hook)
    return books.take(point + (feed.hook == "hook_egress"))


def first_difference(feed: Feed, tunnels: str, frames: Iterable[bytes]) -> str:
    """The first frame whose rows or counters differ, with what came before it still in memory."""
    oracle = dissector(feed, tunnels)
    with loading(tunnels) as programs:
        books = KernelBooks(programs)
        for frame in frames:
            expected = books_of_oracle(oracle, [frame]).without_marks()
            found = fed(programs, books, feed, [frame]).without_marks()
            if lines := expected.differences(found):
                return told(feed, tunnels, frame, lines)
    return f"{tunnels}, {feed}: frame by frame there is no difference"


def told(feed: Feed, tunnels: str, frame: bytes, lines: list[str]) -> str:
    bare = IPv6 if frame[0] >> 4 == 6 else IP
    scapy = (Ether if feed.link_bytes else bare)(frame)
    return "\n".join(
        [
            f"{tunnels}, {feed}",
            frame.hex(),
            scapy.summary(),
            "the oracle's measures, then the kernel's:",
            *lines,
        ]
    )
