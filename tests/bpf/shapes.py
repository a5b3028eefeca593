# SPDX-License-Identifier: Apache-2.0
"""Well-formed packets of every shape, built from the inside out: transport, IP, link.

A *part* is a number and bytes: the protocol or ethertype under which the bytes are carried.
Addresses, ports and identifications are drawn from few, so that packets meet each other.
"""

import random
import struct

from scapy.contrib.mpls import MPLS
from scapy.layers.igmp import IGMP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    IPv6ExtHdrSegmentRouting,
    PadN,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import ARP, LLC, STP, Dot3
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Raw

Part = tuple[int, bytes]

IPV4, IPV6 = 0x0800, 0x86DD
_HOP, _ROUTING, _FRAGMENT, _AH, _OPTIONS = 0, 43, 44, 51, 60
_QUOTED = IP(src="198.18.0.1", dst="198.18.0.2") / UDP(sport=7, dport=9)
_MACS = bytes.fromhex("020000000002020000000001")


class Shapes:
    """A supply of packets, the same ones for the same random numbers."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def ethernet(self, part: Part) -> bytes:
        """A frame around *part*, with up to three tags."""
        ethertype, payload = part
        for _ in range(self._draw.choice([0, 0, 0, 0, 1, 1, 2, 2, 3])):
            tag = self._draw.choice([0, 1, 7, 4095, 0x6007, 0xF064, self._draw.randrange(65536)])
            payload = struct.pack("!HH", tag, ethertype) + payload
            ethertype = self._draw.choice([0x8100, 0x8100, 0x88A8, 0x9100])
        return _MACS + struct.pack("!H", ethertype) + payload

    def other(self) -> bytes:
        """A frame that is not IP."""
        payload = self._draw.randbytes(46)
        ethertypes = (0, 4, 0x05FF, 0x0600, 0x8808, 0x9200, self._draw.randrange(65536))
        return self._draw.choice(
            [
                self.ethernet((0x0806, bytes(ARP(psrc="198.18.0.1", pdst="198.18.0.2")))),
                bytes(Dot3(src="02:00:00:00:00:01", dst="01:80:c2:00:00:00") / LLC() / STP()),
                self.ethernet((0x88CC, payload)),
                self.ethernet((0x8847, bytes(MPLS(label=16, s=1) / _QUOTED))),
                self.ethernet((0x8864, bytes(PPPoE(sessionid=1) / PPP(proto=0x21) / _QUOTED))),
                self.ethernet((self._draw.choice(ethertypes), payload)),
            ]
        )

    def ip(self, part: Part) -> Part:
        """*part* in IPv4 or IPv6."""
        return self._draw.choice([self.ipv4, self.ipv6])(part)

    def ipv4(self, part: Part, **fields: object) -> Part:
        """*part* in IPv4, with up to forty bytes of options and sometimes authenticated."""
        if self._draw.random() < 0.15:
            part = self._authentication(part)
        number, payload = part
        header = IP(
            src=f"198.18.0.{self._draw.randrange(1, 5)}",
            dst=f"198.18.0.{self._draw.randrange(1, 5)}",
            tos=self._draw.randrange(256),
            ttl=self._draw.randrange(256),
            id=self.identification(),
            proto=number,
            options=bytes([1]) * 4 * self._draw.choice([0, 0, 0, *range(11)]),
            **({"flags": self._draw.choice([0, 2, 4])} | fields),
        )
        return IPV4, bytes(header / Raw(payload))

    def ipv6(self, part: Part) -> Part:
        """*part* in IPv6, behind any number of extension headers in any order."""
        for _ in range(self._draw.choice([0, 0, 0, 0, 1, 1, 2, 3, 5, 7, 8, 9, 10])):
            part = self._draw.choice(
                [self._hop, self._routing, self._atomic, self._authentication, self._options]
            )(part)
        number, payload = part
        header = IPv6(
            src=f"2001:db8::{self._draw.randrange(1, 5)}",
            dst=f"2001:db8::{self._draw.randrange(1, 5)}",
            tc=self._draw.randrange(256),
            fl=self._draw.randrange(1 << 20),
            hlim=self._draw.randrange(256),
            nh=number,
        )
        return IPV6, bytes(header / Raw(payload))

    def _hop(self, part: Part) -> Part:
        header = IPv6ExtHdrHopByHop(nh=part[0], options=[self._padding()])
        return _HOP, bytes(header / Raw(part[1]))

    def _options(self, part: Part) -> Part:
        header = IPv6ExtHdrDestOpt(nh=part[0], options=[self._padding()])
        return _OPTIONS, bytes(header / Raw(part[1]))

    def _padding(self) -> PadN:
        return PadN(optdata=bytes(self._draw.choice([0, 4, 4, 4, 12, 60, 252])))

    def _routing(self, part: Part) -> Part:
        addresses = ["2001:db8::1"] * self._draw.randrange(4)
        header = self._draw.choice(
            [
                IPv6ExtHdrRouting(nh=part[0], type=0, addresses=addresses),
                IPv6ExtHdrRouting(nh=part[0], type=2, addresses=["2001:db8::1"]),
                IPv6ExtHdrSegmentRouting(nh=part[0], addresses=["2001:db8::1", *addresses]),
            ]
        )
        return _ROUTING, bytes(header / Raw(part[1]))

    def _atomic(self, part: Part) -> Part:
        """One fragment that is the whole packet."""
        header = IPv6ExtHdrFragment(nh=part[0], id=self.identification())
        return _FRAGMENT, bytes(header / Raw(part[1]))

    def _authentication(self, part: Part) -> Part:
        icv = bytes(self._draw.choice([12, 12, 20, 28, 300]))
        # In words of four bytes, less two.
        header = AH(nh=part[0], payloadlen=(12 + len(icv)) // 4 - 2, spi=1, icv=icv, padding=b"")
        return _AH, bytes(header) + part[1]

    def transport(self) -> Part:
        kinds = (
            *(self._tcp, self._tcp, self.udp, self.udp, self._udp_lite, self._dccp, self._sctp),
            *(self._icmp, self._icmpv6, self._igmp, self._esp, self._unknown),
        )
        return self._draw.choice(kinds)()

    def _tcp(self) -> Part:
        options = self._draw.choice([[], [("Timestamp", (1, 2))], [("NOP", None)] * 12])
        header = TCP(flags=self._draw.randrange(256), options=options, **self._ports())
        return 6, bytes(header / self._payload())

    def udp(self, payload: bytes | None = None, **ports: int) -> Part:
        payload = bytes(self._payload()) if payload is None else payload
        return 17, bytes(UDP(**(self._ports() | ports)) / Raw(payload))

    def _udp_lite(self) -> Part:
        return 136, self.udp()[1]

    def _dccp(self) -> Part:
        return 33, struct.pack("!HH", *self._ports().values()) + bytes([4]) + bytes(11)

    def _sctp(self) -> Part:
        return 132, bytes(SCTP(**self._ports()) / SCTPChunkData(data=b"data"))

    def _icmp(self) -> Part:
        echo = ICMP(type=self._draw.choice([0, 8]), id=self.identification(), seq=1)
        unreachable = ICMP(type=3, code=self._draw.randrange(16)) / _QUOTED
        other = ICMP(type=self._draw.randrange(256), code=self._draw.randrange(256))
        message = self._draw.choice([echo, echo, unreachable, other])
        return 1, bytes(message / self._payload())

    def _icmpv6(self) -> Part:
        kind = self._draw.choice([128, 129, 128, 129, 1, 143, self._draw.randrange(256)])
        words = (kind, self._draw.randrange(8), 0, self.identification(), 1)
        neighbour = bytes(ICMPv6ND_NS(cksum=0, tgt="2001:db8::2"))
        return 58, self._draw.choice([struct.pack("!BBHHH", *words), neighbour])

    def _igmp(self) -> Part:
        return 2, bytes(IGMP(type=0x16, gaddr="239.0.0.1"))

    def _esp(self) -> Part:
        return 50, bytes(ESP(spi=self._draw.randrange(1 << 32), data=self._draw.randbytes(24)))

    def _unknown(self) -> Part:
        """No next header, mobility, and whatever has no number yet."""
        number = self._draw.choice([59, 59, 135, 255, self._draw.randrange(256)])
        return number, self._draw.randbytes(24)

    def _payload(self) -> Raw:
        return Raw(self._draw.randbytes(self._draw.choice([0, 0, 1, 12, 26, 80])))

    def _ports(self) -> dict[str, int]:
        # None that is somebody's: tshark would read on there, and rather than in a tunnel.
        some = (40007, 44443, self._draw.randrange(50000, 65536))
        return {name: self._draw.choice(some) for name in ("sport", "dport")}

    def identification(self) -> int:
        return self._draw.choice([1, 2, self._draw.randrange(65536)])
