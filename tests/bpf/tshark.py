# SPDX-License-Identifier: Apache-2.0
"""The row of a frame as tshark has it: a second opinion on the oracle.

tshark gives the names of a frame's layers, and each field's values in the order of the layers
that have it.  Walking the one and consuming the other yields the row, without a look at the bytes.
"""

import subprocess
from collections import deque
from ipaddress import ip_address
from pathlib import Path

from scapy.utils import wrpcap

from tests.bpf.dissect import Row
from tests.bpf.opened import IPV4, IPV6
from tests.bpf.tunnel_shapes import GENEVE_PORT, VXLAN_PORTS

_IP_FIELDS = {
    "ip": ("ip.src", "ip.dst", "ip.dsfield.dscp", "ip.proto"),
    "ipv6": ("ipv6.src", "ipv6.dst", "ipv6.tclass.dscp", "ipv6.nxt"),
}
_NEXT_HEADERS = {
    "ipv6.hopopts": "ipv6.hopopts.nxt",
    "ipv6.dstopts": "ipv6.dstopts.nxt",
    "ipv6.routing": "ipv6.routing.nxt",
    "ipv6.fraghdr": "ipv6.fraghdr.nxt",
    "ah": "ah.next_header",
}
_PORTS = {name: (f"{name}.srcport", f"{name}.dstport") for name in ("tcp", "udp", "sctp", "dccp")}
_PORTS["udplite"] = _PORTS["udp"]
_ICMP = {
    "icmp": ("icmp.type", "icmp.code", "icmp.ident"),
    "icmpv6": ("icmpv6.type", "icmpv6.code", "icmpv6.echo.identifier"),
}
_ETHERTYPES = {
    "ip": IPV4,
    "ipv6": IPV6,
    "arp": 0x0806,
    "lldp": 0x88CC,
    "llc": 4,
    "mpls": 0x8847,
    "pppoes": 0x8864,
}
ANY = -1  # an ethertype that tshark has no field for
_ECHOES = {1: (0, 8), 58: (128, 129)}
_IP_IN_IP = {4: "ipip", 41: "6in4"}
_TUNNEL_PORTS = {"vxlan": VXLAN_PORTS, "geneve": (GENEVE_PORT,)}
_GRE_KEY = 0x2000
_TAGS_READ, _EXTENSIONS_READ = 2, 8
_VNI = {"vxlan": "vxlan.vni", "geneve": "geneve.vni", "gre": "gre.key"}
_FIELDS = list(
    dict.fromkeys(
        [
            *("frame.protocols", "vlan.id", "gre.flags_and_version", "tcp.flags"),
            *("ieee8021ad.id", "ieee8021ad.svid", "ieee8021ad.cvid"),
            *(field for fields in _IP_FIELDS.values() for field in fields),
            *_NEXT_HEADERS.values(),
            *(field for fields in _PORTS.values() for field in fields),
            *(field for fields in _ICMP.values() for field in fields),
            *_VNI.values(),
        ]
    )
)
Layers = dict[str, deque[str]]
_OPTIONS = ("ip.defragment:FALSE", "ipv6.defragment:FALSE", "udp.try_heuristic_first:FALSE")


def layers_of(frames: list[bytes], folder: Path) -> list[Layers]:
    """Of each frame, the values of all fields above."""
    wrpcap(str(folder / "frames.pcap"), frames, linktype=1)
    wanted = [argument for field in _FIELDS for argument in ("-e", field)]
    options = [argument for option in _OPTIONS for argument in ("-o", option)]
    options += [part for port in VXLAN_PORTS for part in ("-d", f"udp.port=={port},vxlan")]
    done = subprocess.run(
        ["tshark", "-n", "-r", str(folder / "frames.pcap"), *options, "-T", "fields", *wanted],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    return [
        {
            field: deque(value.split(":" if field == "frame.protocols" else ",") if value else ())
            for field, value in zip(_FIELDS, line, strict=True)
        }
        for line in lines
    ]


class ReadOn(Exception):  # noqa: N818 - no error: the two have different limits
    """tshark reads on where we stop by design, or names a field of two layers as one."""


def row_of(layers: Layers) -> Row:
    """The row of a frame whose tunnel is opened; a later fragment is one without ports.

    Raises:
        ReadOn: there are three tags, or nine extension headers, or IPv6's behind IPv4; or two
            layers of 802.1ad; or a header of which tshark wants more than a first fragment has:
            twelve bytes of SCTP, eight of ICMP.
    """
    names = layers["frame.protocols"]
    outer = _packet(layers, names, _tags(layers, names))
    tunnel, vni = _tunnel(layers, names, outer)
    if not tunnel:
        return outer
    has_link = bool(names) and names[0] == "eth"
    inner = _packet(layers, names, _tags(layers, names) if has_link else Row())
    return inner._replace(
        tunnel=tunnel,
        vni=vni,
        vlan=outer.vlan,
        inner_vlan=outer.inner_vlan,
        outer_src_addr=outer.src_addr,
        outer_dst_addr=outer.dst_addr,
    )


def _tags(layers: Layers, names: deque[str]) -> Row:
    """Consume an Ethernet header and its tags."""
    names.popleft()
    ids = []
    while names and names[0] in ("ethertype", "vlan", "ieee8021ad"):
        name = names.popleft()
        if name == "vlan":
            ids.append(_next(layers, "vlan.id"))
        elif name == "ieee8021ad" and layers["ieee8021ad.svid"]:
            # Two of these tags are one layer to tshark; in two frames, whose ids are whose?
            if names.count("ieee8021ad"):
                raise ReadOn
            ids += [_next(layers, "ieee8021ad.svid"), _next(layers, "ieee8021ad.cvid")]
        elif name == "ieee8021ad":
            ids.append(_next(layers, "ieee8021ad.id"))
    if len(ids) > _TAGS_READ:
        raise ReadOn
    vlan, inner_vlan, *_ = (*ids, 0, 0)
    return Row(_ETHERTYPES.get(names[0] if names else "", ANY), vlan, inner_vlan)


def _packet(layers: Layers, names: deque[str], row: Row) -> Row:
    """Consume an IP header and what belongs to it; *row* holds what was before."""
    if not names or names[0] not in _IP_FIELDS:
        return row
    ethertype = _ETHERTYPES[names[0]]
    src, dst, dscp, protocol = (_value(layers, field) for field in _IP_FIELDS[names.popleft()])
    extensions = []
    while names and names[0] in _NEXT_HEADERS:
        extensions.append(names.popleft())
        protocol = _value(layers, _NEXT_HEADERS[extensions[-1]])
    if len(extensions) > _EXTENSIONS_READ or (ethertype == IPV4 and {*extensions} - {"ah"}):
        raise ReadOn
    row = row._replace(
        ethertype=ethertype,
        src_addr=_mapped(src),
        dst_addr=_mapped(dst),
        dscp=int(dscp),
        protocol=int(protocol),
    )
    return _with_ports(layers, names, row)


def _with_ports(layers: Layers, names: deque[str], row: Row) -> Row:
    if names and names[0] in _PORTS:
        fields = _PORTS[names.popleft()]
        src_port, dst_port = (_next(layers, field) for field in fields)
        return row._replace(src_port=src_port, dst_port=dst_port)
    if not names or names[0] not in _ICMP:
        return row
    kind, code, identifier = _ICMP[names.popleft()]
    row = row._replace(icmp_type=_next(layers, kind), icmp_code=_next(layers, code))
    if row.icmp_type in _ECHOES[row.protocol] and layers[identifier]:
        return row._replace(icmp_id=_next(layers, identifier))
    return row


def _tunnel(layers: Layers, names: deque[str], row: Row) -> tuple[str, int]:
    """Consume the header of a tunnel; its name, or "", and its number."""
    if not names:
        return "", 0
    if names[0] in ("ip", "ipv6") and row.protocol in _IP_IN_IP:
        return _IP_IN_IP[row.protocol], 0
    # To tshark a tunnel's port is one as source port too.
    if names[0] in _TUNNEL_PORTS and row.dst_port not in _TUNNEL_PORTS[names[0]]:
        return "", 0
    if names[0] not in _VNI or (names[0] == "gre" and len(names) < 2):
        return "", 0
    name = names.popleft()
    # ERSPAN and PPP hold frames too, which are not the next layer then.
    if names and names[0] not in ("eth", "ip", "ipv6", "arp"):
        return "", 0
    has_number = name != "gre" or int(layers["gre.flags_and_version"][0], 16) & _GRE_KEY
    return name, _next(layers, _VNI[name]) if has_number else 0


def _next(layers: Layers, field: str) -> int:
    return int(_value(layers, field), 0)


def _value(layers: Layers, field: str) -> str:
    if not layers[field]:
        raise ReadOn
    return layers[field].popleft()


def _mapped(text: str) -> bytes:
    address = ip_address(text)
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed
