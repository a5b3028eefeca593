# SPDX-License-Identifier: Apache-2.0
"""An endless supply of frames: well-formed shapes, and all that can be wrong with them.

Shapes are built once; what is cut from them and written over them afterwards is cheap, so that
hundreds of thousands of frames take seconds.
"""

import random
from collections.abc import Iterator

from tests.bpf.fragments import fragments_of
from tests.bpf.shapes import IPV4, Part, Shapes
from tests.bpf.tunnel_shapes import Tunnels

SHORTEST = 14  # what the kernel lets a test run have
LONGEST = 3000  # and, with the room that it adds, a page
_POOL = 1000
_NOTABLE = (0, 1, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 60, 0x45, 0x46, 0x4F, 0x60, 0x80, 0xFF)


class Frames:
    """The same frames for the same seed.

    Those that are *sound* have nothing wrong; *has_link* is false for bare IP packets.
    """

    def __init__(
        self, seed: int, *, has_link: bool = True, is_sound: bool = False, pool: int = _POOL
    ) -> None:
        self._draw = random.Random(seed)
        self._shapes = Shapes(self._draw)
        self._tunnels = Tunnels(self._draw, self._shapes)
        self._has_link = has_link
        self._is_sound = is_sound
        self.groups = [group for group in (self._group() for _ in range(pool)) if _fits(group)]

    def whole(self) -> list[bytes]:
        """Every shape as it was built, fragments behind each other."""
        return [frame for group in self.groups for frame in group]

    def endless(self, seed: int) -> Iterator[bytes]:
        """Shapes at random: whole, cut short, written over, padded; fragments in any order."""
        draw = random.Random(seed)
        while True:
            group = list(draw.choice(self.groups))
            if draw.random() < 0.2:
                draw.shuffle(group)
            for frame in group:
                yield _treated(frame, draw)

    def _group(self) -> list[bytes]:
        """One frame, or the fragments of one packet, each in a frame."""
        kind = self._draw.random()
        if kind < 0.05 and self._has_link:
            return [self._shapes.other()]
        if kind < 0.10 and not self._is_sound:
            return [self._framed(self._misnumbered())]
        packet = self._packet()
        if kind < 0.30:
            return [self._framed(part) for part in fragments_of(packet, self._draw)]
        return [self._framed(packet)]

    def _framed(self, part: Part) -> bytes:
        return self._shapes.ethernet(part) if self._has_link else part[1]

    def _packet(self) -> Part:
        """An IP packet, plain or in a tunnel or two, whole or with fragments in the tunnel."""
        packet = self._shapes.ip(self._shapes.transport())
        for _ in range(self._draw.choice([0, 0, 0, 1, 1, 1, 1, 2])):
            if self._draw.random() < 0.15:
                packet = self._draw.choice(fragments_of(packet, self._draw))
            packet = self._shapes.ip(self._wrapped(packet))
        return packet

    def _wrapped(self, packet: Part) -> Part:
        if self._is_sound or self._draw.random() < 0.8:
            return self._tunnels.around(packet)
        return self._tunnels.almost(packet)

    def _misnumbered(self) -> Part:
        """IPv4 whose version, lengths or fragment bits are not what they should be."""
        field = self._draw.choice(["version", "ihl", "len", "frag"])
        values = {"version": range(16), "ihl": range(16), "len": range(100), "frag": (1, 185, 8191)}
        changed = {field: self._draw.choice(values[field])}
        return IPV4, self._shapes.ipv4(self._shapes.transport(), **changed)[1]


def _fits(group: list[bytes]) -> bool:
    return all(SHORTEST <= len(frame) <= LONGEST for frame in group)


def _treated(frame: bytes, draw: random.Random) -> bytes:
    kind = draw.random()
    if kind < 0.25:
        return frame
    treated = bytearray(frame)
    if 0.25 <= kind < 0.6:
        del treated[draw.randint(SHORTEST, len(treated)) :]
    if 0.5 <= kind < 0.9:
        _write_over(treated, draw)
    if kind >= 0.9:
        treated += draw.randbytes(draw.choice([1, 6, 40]))
    return bytes(treated)


def _write_over(frame: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        at = draw.randrange(len(frame))
        frame[at] = draw.choice(
            [
                draw.randrange(256),
                draw.choice(_NOTABLE),
                frame[at] ^ 1 << draw.randrange(8),
                (frame[at] + draw.choice([-1, 1])) % 256,
            ]
        )
