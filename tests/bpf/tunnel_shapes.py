# SPDX-License-Identifier: Apache-2.0
"""Tunnels of every shape around packets, well formed, and what only looks like a tunnel."""

import random
import struct

from tests.bpf.shapes import IPV4, IPV6, Part, Shapes

# RFC 7348, and what Linux took before it.
VXLAN_PORTS, GENEVE_PORT = (4789, 8472), 6081
_BRIDGED = 0x6558
_GRE = 47
# Checksum, key and sequence number; routing (RFC 1701) and version 1 (RFC 2637) are not opened.
_GRE_WORDS = (0x8000, 0x2000, 0x1000)


class Tunnels:
    """Puts packets into tunnels; the IP header around is for the caller to add."""

    def __init__(self, draw: random.Random, shapes: Shapes) -> None:
        self._draw = draw
        self._shapes = shapes

    def around(self, part: Part) -> Part:
        """*part*, an IP packet, in some tunnel."""
        kinds = [self.vxlan, self.vxlan, self.geneve, self.geneve, self.gre, self.gre, self.ip]
        return self._draw.choice(kinds)(part)

    def almost(self, part: Part) -> Part:
        """*part* in what is not one of our tunnels, or is one that holds something else."""
        draw, frame = self._draw, self._shapes.ethernet(part)
        return draw.choice(
            [
                self._shapes.udp(bytes(4) + b"\0\0\x07\0" + frame, dport=VXLAN_PORTS[0]),
                self._shapes.udp(
                    b"\x08\0\0\0\0\0\x07\0" + self._shapes.other(), dport=VXLAN_PORTS[0]
                ),
                self._shapes.udp(b"\x08\0\0\0\0\0\x07\0" + frame, sport=VXLAN_PORTS[0]),
                self._shapes.udp(struct.pack("!HHI", 0x4000, part[0], 7) + part[1], dport=6081),
                self._shapes.udp(struct.pack("!HHI", 0, 0x0806, 7) + bytes(28), dport=6081),
                (_GRE, struct.pack("!HHI", 0x4000, part[0], 0) + bytes(4) + part[1]),
                (_GRE, struct.pack("!HHI", 0x3001, 0x880B, 7) + bytes(4) + part[1]),
                (_GRE, struct.pack("!HHI", 0x1000, 0x88BE, 1) + bytes(8) + frame),
                (_GRE, struct.pack("!HH", 0, draw.choice([0x8847, 0x0806])) + part[1]),
                (_GRE, struct.pack("!HH", 0, {IPV4: IPV6, IPV6: IPV4}[part[0]]) + part[1]),
                ({IPV4: 41, IPV6: 4}[part[0]], part[1]),
            ]
        )

    def vxlan(self, part: Part) -> Part:
        flags = self._draw.choice([0x08, 0x08, 0x88, 0x0C])
        header = struct.pack("!BxxxI", flags, self._vni() << 8 | self._draw.choice([0, 1]))
        dport = self._draw.choice(VXLAN_PORTS)
        return self._shapes.udp(header + self._inner_frame(part), dport=dport)

    def geneve(self, part: Part) -> Part:
        ethertype, payload = part
        if self._draw.random() < 0.6:
            ethertype, payload = _BRIDGED, self._inner_frame(part)
        words = self._draw.choice([0, 0, 1, 2, 5, 63])
        # Control packet, critical options.
        bits = self._draw.choice([0, 0, 0x80, 0x40])
        header = struct.pack("!BBHI", words, bits, ethertype, self._vni() << 8) + bytes(words * 4)
        return self._shapes.udp(header + payload, dport=GENEVE_PORT)

    def gre(self, part: Part) -> Part:
        ethertype, payload = part
        if self._draw.random() < 0.4:
            ethertype, payload = _BRIDGED, self._inner_frame(part)
        words = [word for word in _GRE_WORDS if self._draw.random() < 0.5]
        header = struct.pack("!HH", sum(words), ethertype)
        # Without a checksum that holds; nobody here looks at it.
        body = b"".join(
            struct.pack("!I", self._vni() if word == 0x2000 else 0x12340000) for word in words
        )
        return _GRE, header + body + payload

    def ip(self, part: Part) -> Part:
        return {IPV4: 4, IPV6: 41}[part[0]], part[1]

    def _inner_frame(self, part: Part) -> bytes:
        return self._draw.choice([self._shapes.ethernet(part)] * 6 + [self._shapes.other()])

    def _vni(self) -> int:
        return self._draw.choice([0, 7, 0xFFFFFF, self._draw.randrange(1 << 24)])
