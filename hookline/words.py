# SPDX-License-Identifier: Apache-2.0
"""Say addresses, protocols and amounts as people do."""

from ipaddress import IPv6Address

from schemas.protocols import ETHERTYPES, IPV4, IPV6, PROTOCOLS, WITH_PORTS

# 802.2 frames have no ethertype, and PPPoE has two.
_ETHERTYPES = {number: name for name, number in ETHERTYPES.items()} | {
    0x0004: "802.2",
    0x8863: "pppoe",
}
_TCP_FLAGS = "FSRPAUEC"
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_UNSPECIFIED = IPv6Address("::")
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def endpoint(address: IPv6Address, port: int, protocol: int) -> str:
    """`10.0.0.1:443`, `[2001:db8::1]:443`, or the address alone where ports mean nothing."""
    mapped = address.ipv4_mapped
    if protocol not in WITH_PORTS:
        return str(mapped or address)
    return f"{mapped}:{port}" if mapped else f"[{address}]:{port}"


def endpoints(
    src: tuple[IPv6Address, int], dst: tuple[IPv6Address, int], protocol: int
) -> tuple[str, str]:
    """Both ends of a flow, `-` for totals that have none."""
    if src[0] == dst[0] == _UNSPECIFIED:
        return "-", "-"
    return endpoint(*src, protocol), endpoint(*dst, protocol)


def protocol_name(protocol: int, ethertype: int) -> str:
    """The protocol's name or number; of what is not IP, the ethertype's."""
    if protocol or ethertype in {IPV4, IPV6}:
        return _PROTOCOL_NAMES.get(protocol, str(protocol))
    return _ETHERTYPES.get(ethertype, f"0x{ethertype:04x}") if ethertype else "other"


def flag_letters(tcp_flags: int) -> str:
    """The letters of the flags that were seen, as tcpdump's but with A for ACK."""
    return "".join(letter for bit, letter in enumerate(_TCP_FLAGS) if tcp_flags >> bit & 1)


def duration(seconds: float) -> str:
    """`5 ms`, `12.3 s`, `4m05s`, `2h03m`, `3d04h`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    return f"{hours // 24}d{hours % 24:02}h"


def with_unit(number: float, unit: str) -> str:
    """Three or four digits and a decimal prefix: 1234567, "B" is `1.23 MB`."""
    power = 0
    # What would be rounded to 1000 belongs to the next prefix.
    while number >= 999.5 and power < len(_PREFIXES) - 1:
        number /= 1000
        power += 1
    if power == 0:
        return f"{number:.0f} {unit}".rstrip()
    digits = max(0, 2 - len(f"{number:.0f}") + 1)
    return f"{number:.{digits}f} {_PREFIXES[power]}{unit}"
