# SPDX-License-Identifier: Apache-2.0
"""Generate frames: well-formed ones by scapy, then cut short or with bytes changed."""

import random

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import ARP, GRE, LLC, STP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Packet, Raw

_UDP_LITE = 136
_IGMP = 2
_SHORTEST = 14  # what the kernel lets a test run have


class Frames:
    """An endless supply of frames, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def whole(self) -> Packet:
        """A well-formed frame."""
        kinds = [self._ipv4] * 6 + [self._ipv6] * 6 + [self._other]
        return self._random.choice(kinds)()

    def damaged(self) -> bytes:
        """A frame that was cut short, or has wrong bytes in its first hundred, or both."""
        frame = bytearray(bytes(self.whole()))
        if self._random.random() < 0.6:
            del frame[self._random.randint(_SHORTEST, max(_SHORTEST, min(len(frame), 110))) :]
        if self._random.random() < 0.6:
            for _ in range(self._random.randint(1, 4)):
                frame[self._random.randrange(min(len(frame), 110))] = self._random.randrange(256)
        return bytes(frame).ljust(_SHORTEST, b"\0")

    def plain_tcp(self) -> Packet:
        """A TCP segment in the usual wrapping, which scapy dissects to the end."""
        link = Ether(src=self._mac(), dst=self._mac())
        if self._random.random() < 0.5:
            link /= Dot1Q(vlan=self._random.randrange(1, 4096))
        if self._random.random() < 0.5:
            ip = IP(tos=self._random.randrange(256), options=[IPOption_NOP()] * 3)
            ip.src, ip.dst = (self._ipv4_address() for _ in range(2))
        else:
            ip = IPv6(tc=self._random.randrange(256))
            ip.src, ip.dst = (self._ipv6_address() for _ in range(2))
            ip = ip / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(m=1)
        ports = {"sport": self._random.randrange(65536), "dport": self._random.randrange(65536)}
        return link / ip / TCP(flags=self._random.randrange(256), **ports)

    def bare(self) -> bytes:
        """An IP packet without a link header."""
        packet = self._random.choice([self._ipv4_packet, self._ipv6_packet])()
        return bytes(packet).ljust(_SHORTEST, b"\0")

    def _ipv4(self) -> Packet:
        return self._link() / self._ipv4_packet()

    def _ipv6(self) -> Packet:
        return self._link() / self._ipv6_packet()

    def _link(self) -> Packet:
        pick = self._random.random()
        ethernet = Ether(src=self._mac(), dst=self._mac())
        if pick < 0.6:
            return ethernet
        tagged = ethernet / (Dot1AD if pick > 0.8 else Dot1Q)(vlan=self._random.randrange(4096))
        # A tag too many is nobody's to parse.
        more = self._random.choice([0, 0, 0, 1, 1, 2]) if pick > 0.75 else 0
        for _ in range(more):
            tagged /= Dot1Q(vlan=self._random.randrange(4096))
        return tagged

    def _ipv4_packet(self) -> Packet:
        options = self._random.choice([[], [], [], [IPOption_NOP()] * 3, [IPOption_Router_Alert()]])
        ip = IP(
            tos=self._random.randrange(256),
            ttl=self._random.randrange(256),
            options=options,
        )
        ip.src, ip.dst = (self._ipv4_address() for _ in range(2))
        if self._random.random() < 0.15:
            ip.flags, ip.frag = self._random.choice([("MF", 0), ("MF", 100), (0, 185), (0, 8191)])
        return ip / self._transport(self._random.choice([ICMP(type=8), ICMP(type=3, code=4)]))

    def _ipv6_packet(self) -> Packet:
        ip = IPv6(
            tc=self._random.randrange(256),
            fl=self._random.randrange(1 << 20),
            hlim=self._random.randrange(256),
        )
        ip.src, ip.dst = (self._ipv6_address() for _ in range(2))
        packet = ip
        chain = self._random.choice([0, 0, 0, 1, 1, 2, 3, 5, 7, 8, 9])
        for _ in range(chain):
            packet /= self._extension()
        neighbour = ICMPv6ND_NS(tgt=self._ipv6_address())
        return packet / self._transport(self._random.choice([ICMPv6EchoRequest(), neighbour]))

    def _extension(self) -> Packet:
        padding = PadN(optdata=bytes(self._random.choice([0, 4, 12, 60, 200])))
        offset = self._random.choice([0, 0, 0, 0, 1, 5, 8191])
        return self._random.choice(
            [
                IPv6ExtHdrHopByHop(options=[padding]),
                IPv6ExtHdrDestOpt(options=[padding]),
                IPv6ExtHdrRouting(addresses=["2001:db8::1"] * self._random.randrange(4)),
                IPv6ExtHdrFragment(offset=offset, m=self._random.randrange(2)),
                AH(icv=bytes(self._random.choice([12, 16, 32])), padding=b""),
            ]
        )

    def _transport(self, icmp: Packet) -> Packet:
        sport, dport = self._random.randrange(65536), self._random.randrange(65536)
        payload = Raw(self._random.randbytes(self._random.choice([0, 1, 18, 100, 1200])))
        pick = self._random.randrange(9)
        if pick < 2:
            options = self._random.choice([[], [("Timestamp", (1, 2))], [("NOP", None)] * 12])
            flags = self._random.randrange(256)
            return TCP(sport=sport, dport=dport, flags=flags, options=options) / payload
        if pick == 2:
            return UDP(sport=sport, dport=dport) / payload
        if pick == 3:
            return SCTP(sport=sport, dport=dport) / SCTPChunkData(data=b"data")
        if pick == 4:
            return icmp / payload
        if pick == 5:
            return GRE() / IP() / UDP() / payload
        if pick == 6:
            return ESP(spi=self._random.randrange(1 << 32), data=self._random.randbytes(40))
        return payload

    def _other(self) -> Packet:
        return self._random.choice(
            [
                Ether(src=self._mac(), dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, pdst="198.18.0.1"),
                Dot3(src=self._mac(), dst="01:80:c2:00:00:00") / LLC() / STP(),
                Ether(dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(self._random.randbytes(60)),
                self._link() / Raw(self._random.randbytes(46)),
                Ether(type=self._random.randrange(65536)) / Raw(self._random.randbytes(46)),
            ]
        )

    def _ipv4_address(self) -> str:
        return ".".join(map(str, self._random.randbytes(4)))

    def _ipv6_address(self) -> str:
        return self._random.randbytes(16).hex(":", 2)

    def _mac(self) -> str:
        return self._random.randbytes(6).hex(":")
