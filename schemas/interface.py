# SPDX-License-Identifier: Apache-2.0
"""An interface: when the agent began to observe it, what changed about it, when that ended.

Rows of other kinds name an interface as it was called at their time; these rows tell what the
name stood for, so that history stays readable when names and indexes are used again.
"""

from schemas import fields as f
from schemas.layout import NAME, U8, U32, Field, Record, enum8
from schemas.ledger import HOOKS

EVENTS = {"attached": 1, "changed": 2, "detached": 3, "gone": 4, "adopted": 5}

_HOOK = enum8(none=0, **HOOKS)

INTERFACE = Record(
    kind="interface",
    table="interfaces",
    doc="An interface that was attached to, has changed, or is observed no more.",
    fields=(
        f.TIME,
        f.INTERFACE.of(
            NAME, "name of the network interface; `netns/name` in another network namespace"
        ),
        Field(
            "event",
            enum8(**EVENTS),
            "`attached`: counted from here on; `changed`: one of these columns has; `detached`:"
            " the agent let go of it; `gone`: it has vanished; `adopted`: an agent goes on where"
            " another had ended, and all in between is counted",
        ),
        Field("netns", NAME, "network namespace as it was given with --netns, empty for our own"),
        Field("ifindex", U32, "its index, which is unique within its network namespace"),
        Field("mac", NAME, "link-layer address, empty where it has none"),
        Field("kind", NAME, "veth, vxlan, bridge... as `ip link` calls it; `physical`, `loopback`"),
        Field("mtu", U32, "largest packet in bytes, without the link header"),
        Field("link_bytes", U8, "length of the link header: 14 for Ethernet, 0 for bare IP"),
        Field("ingress_hook", _HOOK, "where packets received are counted"),
        Field("egress_hook", _HOOK, "where packets sent are counted"),
        Field("foreign_xdp", U32, "id of somebody else's XDP program on it, 0 for none"),
    ),
    order_by="time, node, interface",
)
