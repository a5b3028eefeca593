# SPDX-License-Identifier: Apache-2.0
"""The six packets that per-packet costs are measured with."""

import socket
import struct

_TIMESTAMPS = b"\x01\x01\x08\x0a" + struct.pack("!II", 12345, 6789)
_SYN_OPTIONS = b"\x02\x04\x05\xb4\x01\x01\x04\x02"
_ACK, _SYN = 0x10, 0x02
_TCP, _UDP, _ICMP = 6, 17, 1


def _ethernet(ethertype: int, content: bytes) -> bytes:
    return bytes.fromhex("020000000002020000000001") + struct.pack("!H", ethertype) + content


def _ipv4(protocol: int, content: bytes) -> bytes:
    addresses = socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2")
    total = 20 + len(content)
    return (
        struct.pack("!BBHHHBBH", 0x45, 0, total, 1, 0x4000, 64, protocol, 0) + addresses + content
    )


def _ipv6(protocol: int, content: bytes) -> bytes:
    addresses = b"".join(socket.inet_pton(socket.AF_INET6, one) for one in ("fd00::1", "fd00::2"))
    return struct.pack("!IHBB", 0x60000000, len(content), protocol, 64) + addresses + content


def _tcp(flags: int, options: bytes, payload_bytes: int = 0) -> bytes:
    offset = (20 + len(options)) // 4 << 4
    header = struct.pack("!HHIIBBHHH", 40000, 443, 1, 1, offset, flags, 65535, 0, 0)
    return header + options + bytes(payload_bytes)


def _udp(payload_bytes: int) -> bytes:
    return struct.pack("!HHHH", 40000, 53, 8 + payload_bytes, 0) + bytes(payload_bytes)


FRAMES = {
    "UDP 64 B": _ethernet(0x0800, _ipv4(_UDP, _udp(22))),
    "SYN 64 B": _ethernet(0x0800, _ipv4(_TCP, _tcp(_SYN, _SYN_OPTIONS))) + bytes(2),
    "TCP 1500 B": _ethernet(0x0800, _ipv4(_TCP, _tcp(_ACK, _TIMESTAMPS, 1434))),
    "TCP IPv6 86 B": _ethernet(0x86DD, _ipv6(_TCP, _tcp(_ACK, _TIMESTAMPS))),
    "ICMP 98 B": _ethernet(0x0800, _ipv4(_ICMP, struct.pack("!BBHHH", 8, 0, 0, 1, 1) + bytes(56))),
    "VLAN TCP 70 B": _ethernet(
        0x8100, struct.pack("!HH", 100, 0x0800) + _ipv4(_TCP, _tcp(_ACK, _TIMESTAMPS))
    ),
}
