# SPDX-License-Identifier: Apache-2.0
"""The packets that per-packet costs are measured with, and what others are made of."""

import socket
import struct

_TIMESTAMPS = b"\x01\x01\x08\x0a" + struct.pack("!II", 12345, 6789)
_SYN_OPTIONS = b"\x02\x04\x05\xb4\x01\x01\x04\x02"
_ACK, _SYN = 0x10, 0x02
_TCP, _UDP, _ICMP = 6, 17, 1


def ethernet(ethertype: int, content: bytes) -> bytes:
    return bytes.fromhex("020000000002020000000001") + struct.pack("!H", ethertype) + content


def ipv4(protocol: int, content: bytes, *, options: bytes = b"", fragment: int = 0x4000) -> bytes:
    addresses = socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2")
    words = 5 + len(options) // 4
    total = 4 * words + len(content)
    header = struct.pack("!BBHHHBBH", 0x40 | words, 0, total, 1, fragment, 64, protocol, 0)
    return header + addresses + options + content


def ipv6(protocol: int, content: bytes) -> bytes:
    addresses = b"".join(socket.inet_pton(socket.AF_INET6, one) for one in ("fd00::1", "fd00::2"))
    return struct.pack("!IHBB", 0x60000000, len(content), protocol, 64) + addresses + content


def _tcp(flags: int, options: bytes, payload_bytes: int = 0) -> bytes:
    offset = (20 + len(options)) // 4 << 4
    header = struct.pack("!HHIIBBHHH", 40000, 443, 1, 1, offset, flags, 65535, 0, 0)
    return header + options + bytes(payload_bytes)


def udp(payload_bytes: int, port: int = 9, payload: bytes = b"") -> bytes:
    payload = payload or bytes(payload_bytes)
    return struct.pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload


FRAMES = {
    "UDP 64 B": ethernet(0x0800, ipv4(_UDP, udp(22))),
    "SYN 64 B": ethernet(0x0800, ipv4(_TCP, _tcp(_SYN, _SYN_OPTIONS))) + bytes(2),
    "TCP 1500 B": ethernet(0x0800, ipv4(_TCP, _tcp(_ACK, _TIMESTAMPS, 1434))),
    "TCP IPv6 86 B": ethernet(0x86DD, ipv6(_TCP, _tcp(_ACK, _TIMESTAMPS))),
    "ICMP 98 B": ethernet(0x0800, ipv4(_ICMP, struct.pack("!BBHHH", 8, 0, 0, 1, 1) + bytes(56))),
    "VLAN TCP 70 B": ethernet(
        0x8100, struct.pack("!HH", 100, 0x0800) + ipv4(_TCP, _tcp(_ACK, _TIMESTAMPS))
    ),
}
