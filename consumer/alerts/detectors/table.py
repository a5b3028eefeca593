# SPDX-License-Identifier: Apache-2.0
"""Every detector by name, with its options, in the order in which they are documented."""

from typing import Any

from consumer.alerts.detectors import (
    agent_silent,
    beacon,
    books,
    dns_tunnel,
    drop_off,
    new_peer,
    port_scan,
    quality,
    syn_flood,
    volume_flood,
)

DETECTORS: dict[str, tuple[Any, type[Any]]] = {
    "syn_flood": (syn_flood.SynFlood, syn_flood.Options),
    "udp_flood": (volume_flood.UdpFlood, volume_flood.UdpOptions),
    "icmp_flood": (volume_flood.IcmpFlood, volume_flood.IcmpOptions),
    "port_scan": (port_scan.PortScan, port_scan.Options),
    "new_peer": (new_peer.NewPeer, new_peer.Options),
    "beacon": (beacon.Beacon, beacon.Options),
    "dns_tunnel": (dns_tunnel.DnsTunnel, dns_tunnel.Options),
    "retransmits": (quality.Retransmits, quality.RetransmitOptions),
    "round_trip": (quality.RoundTrip, quality.RoundTripOptions),
    "drop_off": (drop_off.DropOff, drop_off.Options),
    "agent_silent": (agent_silent.AgentSilent, agent_silent.Options),
    "books": (books.Books, books.Options),
}
