# SPDX-License-Identifier: Apache-2.0
"""What detectors know rows by: hashes of addresses and of the places where packets were seen.

All of it is computed once for the rows of a fetch, however many detectors ask.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.alerts.rows import NS_PER_S, Rows, address_bytes, is_ipv4, name_keys
from consumer.alerts.sketches import Hash, Keys

# One secret for all detectors of a process; only equality means anything.
HASH = Hash()

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
INGRESS, EGRESS = 1, 2
FIN, SYN, RST, ACK = 1, 2, 4, 16


def sources(rows: Rows) -> Keys:
    return rows.kept("source keys", lambda rows: HASH.of(rows["src_addr"]))


def destinations(rows: Rows) -> Keys:
    return rows.kept("destination keys", lambda rows: HASH.of(rows["dst_addr"]))


def nodes(rows: Rows) -> Keys:
    return rows.kept("node keys", lambda rows: name_keys(rows.node, HASH.of))


def points(rows: Rows) -> Keys:
    """Node and interface: packets that pass several of them are counted at each.

    So what is summed is summed for each of them apart, never over them: the same packet is not
    counted twice, and a flood that is spread over several is seen at the one that has most of it.
    """
    return rows.kept(
        "point keys",
        lambda rows: HASH.of(nodes(rows), name_keys(rows["interface"], HASH.of)),
    )


def seconds(rows: Rows) -> NDArray[np.int64]:
    """The second in which each row began."""
    return rows.kept("seconds", lambda rows: np.asarray(rows["time"] // NS_PER_S))


def external(addresses: NDArray[Any]) -> NDArray[np.bool_]:
    """Which addresses are on the Internet: not private, shared, link-local, loopback, multicast."""
    octets = address_bytes(addresses)
    is_v4 = is_ipv4(octets)
    first, second = octets[:, 12], octets[:, 13]
    is_inside_v4 = (
        (first == 0)
        | (first == 10)
        | (first == 127)
        | ((first == 100) & (second >= 64) & (second < 128))
        | ((first == 169) & (second == 254))
        | ((first == 172) & (second >= 16) & (second < 32))
        | ((first == 192) & (second == 168))
        | ((first == 198) & (second >= 18) & (second < 20))
        | (first >= 224)
    )
    # Of IPv6 only 2000::/3 is given to anybody.
    return np.asarray(np.where(is_v4, ~is_inside_v4, (octets[:, 0] & 0xE0) == 0x20))


def networks(addresses: NDArray[Any], *, ipv4_bytes: int = 3, ipv6_bytes: int = 6) -> NDArray[Any]:
    """The networks of addresses: /24 and /48 unless told otherwise, as addresses."""
    octets = address_bytes(addresses).copy()
    is_v4 = is_ipv4(octets)
    octets[is_v4, 12 + ipv4_bytes :] = 0
    octets[~is_v4, ipv6_bytes:] = 0
    return octets.reshape(-1).view("|V16")
