# SPDX-License-Identifier: Apache-2.0
"""Programs that drop packets of listed sources, on live links: each at the end of its own."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from agent import libbpf
from bench.ends import End, an_end, namespace, passed, within
from bench.programs import Hooks, Peers, know
from bench.rounds import Samples, cell, interleave, net, table
from bench.ruled import enforced, listed, ruled
from bench.spray import Spray
from bench.xdp_filter import MOST, why_not, xdp_filter

BASE = "an XDP program that drops all"
PACKETS = 100_000
# Each rule is compared with each packet: 100,000 would take milliseconds a packet, and a thousand
# take microseconds, of which there need not be so many.
_MOST_IPTABLES = 1_000
_IPTABLES = "iptables, a rule for each"
_IPTABLES_PACKETS = 10_000


def live(counts: Sequence[int], rounds: int) -> dict:
    """CPU time a packet takes from all of its receiver, by what drops it there."""
    found: dict[str, dict[int, object]] = {}
    peers = Peers()
    for count in counts:
        samples, skipped = dropping(peers, count, rounds)
        for name in samples:
            cells = cell(samples[name]) if name == BASE else cell(net(samples, name, BASE))
            found.setdefault(name, {})[count] = cells
        for name, reason in skipped.items():
            found.setdefault(name, {})[count] = reason
    rows = [
        [
            name if name == BASE else f"{name}, beyond that",
            *(found[name][count] for count in counts),
        ]
        for name in found
    ]
    columns = ["ns of CPU a packet", *(f"{count:,} prefixes" for count in counts)]
    return table("A live link: what drops packets of listed sources", columns, rows)


def dropping(peers: Peers, count: int, rounds: int) -> tuple[Samples, dict[str, str]]:
    with (
        namespace(f"hlb{os.getpid()}") as senders,
        ruled(enforced("r", src=listed(count))) as loaded,
        droppers(senders, count, peers, loaded) as (ends, skipped),
    ):
        spray = Spray(peers, count)
        with within(senders):
            variants = {
                name: sending(
                    spray,
                    socket.if_nametoindex(end.sender),
                    _IPTABLES_PACKETS if name == _IPTABLES else PACKETS,
                )
                for name, end in ends.items()
            }
            samples = interleave(variants, rounds)
        for name, end in ends.items():
            assert not passed(end), f"{name} let {passed(end)} packets pass"
    return samples, skipped


def sending(spray: Spray, ifindex: int, packets: int) -> Callable[[], float]:
    return lambda: spray.send(ifindex, packets)


@contextmanager
def attached(end: End, fd: int, kind: int, flags: int = 0) -> Iterator[None]:
    with within(end.namespace):
        link = libbpf.create_link(fd, end.ifindex, kind, flags=flags)
    try:
        yield
    finally:
        os.close(link)


def by_nft(end: End, count: int, family: str, hook: str) -> None:
    elements = ",".join(map(str, listed(count)))
    _feed(
        end,
        ["nft", "-f", "-"],
        f"table {family} hlb {{\n"
        f"set s {{ type ipv4_addr; flags interval; elements = {{ {elements} }}; }}\n"
        f"chain c {{ type filter hook {hook}; policy accept; ip saddr @s drop; }}\n"
        "}\n",
    )


def by_iptables(end: End, count: int) -> None:
    rules = "\n".join(f"-A PREROUTING -s {one} -j DROP" for one in listed(count))
    _feed(end, ["iptables-restore"], f"*raw\n{rules}\nCOMMIT\n")


def _feed(end: End, command: list[str], text: str) -> None:
    with within(end.namespace):
        subprocess.run(command, input=text, text=True, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def droppers(
    senders: str, count: int, peers: Peers, loaded: Hooks
) -> Iterator[tuple[dict[str, End], dict[str, str]]]:
    """An end for each program that is here and can hold so many, and why others are not."""
    skipped: dict[str, str] = {}
    native = libbpf.XDP_FLAGS_DRV_MODE
    tcx = libbpf.BPF_TCX_INGRESS
    ends: dict[str, End] = {}
    with ExitStack() as stack:

        def end(name: str) -> End:
            ends[name] = stack.enter_context(an_end(senders, len(ends)))
            know(loaded.plan, ends[name].ifindex)
            return ends[name]

        for name, fd, kind, flags in (
            (BASE, peers.fd("drop_xdp"), libbpf.BPF_XDP, native),
            ("a tcx program that drops all", peers.fd("drop_tc"), tcx, 0),
            ("hookline, XDP", loaded.fd("hook_xdp"), libbpf.BPF_XDP, native),
            ("hookline, tcx", loaded.fd("hook_ingress"), tcx, 0),
        ):
            stack.enter_context(attached(end(name), fd, kind, flags))
        if count > MOST:
            skipped["xdp-filter"] = f"holds {MOST:,}"
        elif reason := why_not():
            skipped["xdp-filter"] = reason
        else:
            stack.enter_context(xdp_filter(end("xdp-filter"), count))
        if shutil.which("nft") is None:
            skipped["nftables"] = "not installed: apt-get install nftables"
        else:
            one = end("nftables, ingress")
            by_nft(one, count, "netdev", f"ingress device {one.name} priority 0")
            by_nft(end("nftables, prerouting"), count, "ip", "prerouting priority raw")
        if shutil.which("iptables-restore") is None:
            skipped["iptables"] = "not installed: apt-get install iptables"
        elif count > _MOST_IPTABLES:
            skipped[_IPTABLES] = "takes too long"
        else:
            by_iptables(end(_IPTABLES), count)
        yield ends, skipped
