# SPDX-License-Identifier: Apache-2.0
"""Interfaces that come, go and change while the agent runs, each counted under its own name."""

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from agent import libbpf
from schemas.interface import EVENTS
from tests.lab.agents import Agent, agent
from tests.lab.foreign import foreign_xdp_program
from tests.lab.links import HERE, End, link, unique_name
from tests.lab.published import Published, read_published
from tests.lab.traffic import ping, udp_burst
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.services]

FRAME = bytes.fromhex("ffffffffffff 02484c000001 88b5") + bytes(46)


def observed_links(started: Agent) -> set[str]:
    return {path.name for path in (started.pins / "links").glob("*")}


def until_observed(started: Agent, ifindex: int) -> None:
    wait_until(lambda: f"egress-{ifindex}" in observed_links(started), "it to be attached to")


def let_go(started: Agent, ifindex: int) -> bool:
    return not any(name.endswith(f"-{ifindex}") for name in observed_links(started))


def events(published: Published) -> list[tuple[str, str]]:
    """The `interface` rows: name and event."""
    names = {number: name for name, number in EVENTS.items()}
    columns = (published.column("interface", name) for name in ("interface", "event"))
    return [(name, names[event]) for name, event in zip(*columns, strict=True)]


def test_an_interface_that_appears_is_counted_from_its_first_packet_to_its_last(kafka, lab):
    pattern = f"{unique_name().partition('-')[0]}-*a"
    with agent("--interface", pattern, "--interval", "0.2", kafka=kafka) as observed:
        with link() as wire:
            until_observed(observed, wire.near.ifindex)
            udp_burst(wire, flows=20, packets=300)
            ping(wire)
            grown = wire.quiet()
            ifindex = wire.near.ifindex
        observed.until_it_says("interface is gone")
        # A link that other tests share may match the pattern too, and stay.
        wait_until(lambda: let_go(observed, ifindex), "its links to be let go")
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert published.sums("egress", interface=wire.near.name) == grown.egress
    assert published.sums("ingress", interface=wire.near.name) == grown.ingress
    assert published.sums("egress", kind="ledger", interface=wire.near.name) == grown.egress
    told = [event for name, event in events(published) if name == wire.near.name]
    assert (told[0], told[-1]) == ("attached", "gone")
    first = published.column("interface", "interface").tolist().index(wire.near.name)
    values = {
        name: published.column("interface", name)[first]
        for name in ("ifindex", "kind", "mac", "mtu", "link_bytes")
    }
    assert values == {
        "ifindex": ifindex,
        "kind": "veth",
        "mac": wire.near.mac,
        "mtu": 1500,
        "link_bytes": 14,
    }


def test_what_is_excluded_is_not_observed_now_or_later(lab):
    stem = unique_name()
    with link() as now, made(f"{stem}z"):
        flags = (
            "--interface",
            f"{stem[: stem.index('-')]}-*",
            "--exclude-interface",
            now.near.name,
        )
        flags += ("--exclude-interface", "*[yz]", "--stop-timeout", "0.1")
        with agent(*flags) as observed, made(f"{stem}y"), link() as later:
            until_observed(observed, later.near.ifindex)
            observed.stop()

    assert all(f"={name} " not in observed.said for name in (now.near.name, f"{stem}y", f"{stem}z"))


@contextmanager
def made(name: str) -> Iterator[None]:
    """A bridge of that name."""
    HERE.run("ip", "link", "add", name, "up", "type", "bridge")
    try:
        yield
    finally:
        HERE.run("ip", "link", "del", name)


def test_an_interface_that_is_down_at_the_start_is_observed_once_it_comes_up(lab):
    with link() as wire:
        HERE.run("ip", "link", "set", wire.near.name, "down")
        pattern = wire.near.name[:-1] + "?"
        with agent("--interface", pattern, "--stop-timeout", "0.1") as observed:
            before = observed_links(observed)
            HERE.run("ip", "link", "set", wire.near.name, "up")
            until_observed(observed, wire.near.ifindex)
            observed.stop()

    assert not before


def test_rows_carry_the_name_that_an_interface_had_at_the_time(kafka, lab):
    with link() as wire:
        name = wire.near.name
        renamed = f"{name[:-1]}c"
        flags = ("--interface", f"{name[:-1]}?", "--interval", "60")
        with agent(*flags, kafka=kafka) as observed:
            ping(wire, count=3)
            rename(name, renamed)
            observed.until_it_says("interface has changed")
            ping(wire, count=5)
            assert observed.stop() == 0
            rename(renamed, name)
    published = read_published(kafka, observed.name)

    assert published.sums("ingress", interface=name)[0] == 3
    assert published.sums("ingress", interface=renamed)[0] == 5
    assert link_packets(published, name) == 6
    assert link_packets(published, renamed) == 10
    assert events(published) == [(name, "attached"), (renamed, "changed"), (renamed, "detached")]


def link_packets(published: Published, name: str) -> int:
    """What the interface itself counted, by the ledger."""
    is_its = published.column("ledger", "interface") == name
    return int(published.column("ledger", "link_packets")[is_its].sum())


def rename(name: str, to: str) -> None:
    HERE.run("ip", "link", "set", name, "name", to)


def test_nothing_is_booked_under_another_name_when_names_and_indexes_are_used_again(kafka, lab):
    # Each carries the same flows, so that slots of the cache are met again by their successors.
    stem = unique_name()
    index = 700_000_000 + sum(map(ord, stem)) % 1000
    sent: Counter[str] = Counter()
    with agent("--interface", f"{stem}[abc]", "--interval", "0.05", kafka=kafka) as observed:
        for number in range(50):
            name = f"{stem}{'abc'[number % 3]}"
            HERE.run(
                *("ip", "link", "add", name, "index", str(index + number % 2)),
                *("type", "veth", "peer", "name", f"{stem}p"),
            )
            HERE.run("ip", "link", "set", f"{stem}p", "up")
            HERE.run("ip", "link", "set", name, "up")
            if number % 5 < 4:  # others are gone before anybody could look
                until_observed(observed, index + number % 2)
                send(name, number + 1)
                sent[name] += number + 1
            HERE.run("ip", "link", "del", name)
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    is_ours = published.column("flow", "ethertype") == 0x88B5
    is_sent = published.column("flow", "direction") == 2
    counted: Counter[str] = Counter()
    for name, packets in zip(
        published.column("flow", "interface")[is_ours & is_sent],
        published.column("flow", "packets")[is_ours & is_sent],
        strict=True,
    ):
        counted[name] += int(packets)
    assert {name: counted[name] for name in sent} == dict(sent)
    assert "unknown" not in published.column("flow", "interface")
    assert not observed_links(observed)


def send(name: str, times: int) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((name, 0))
        for _ in range(times):
            sock.send(FRAME)


def test_an_interface_that_moves_to_another_namespace_is_let_go(lab):
    with link() as wire, link() as other:
        flags = ("--interface", wire.near.name[:-1] + "?", "--stop-timeout", "0.1")
        with agent(*flags) as observed:
            HERE.run("ip", "link", "set", wire.near.name, "netns", other.far.namespace.name)
            observed.until_it_says("interface is gone")
            links = observed_links(observed)
            moved = replace(wire.near, namespace=other.far.namespace)
            programs = tcx_programs(moved)
            moved.namespace.run("ip", "link", "set", moved.name, "netns", "1")
            until_observed(observed, wire.near.ifindex)
            observed.stop()

    assert not links
    assert not programs


def tcx_programs(end: End) -> list[int]:
    with end.namespace.entered():
        return libbpf.attached_programs(end.ifindex, libbpf.BPF_TCX_EGRESS)


def test_what_finds_no_hook_point_is_counted_as_unknown_and_said(kafka, lab):
    with link() as first, link() as second, link() as third:
        wires = (first, second, third)
        names = [text for wire in wires for text in ("--interface", wire.near.name)]
        with agent(*names, "--max-interfaces", "1", kafka=kafka) as observed:
            for wire in wires:
                ping(wire, count=5)
            assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert "no hook points are left" in observed.said
    assert published.sums("ingress", interface=first.near.name)[0] == 5
    assert published.sums("ingress", interface="unknown")[0] > 0
    assert sum(published.column("flow", "packets")) == 30


def test_a_foreign_xdp_program_that_comes_and_goes_later_is_told(kafka, wire):
    with agent("--interface", wire.near.name, "--interval", "0.1", kafka=kafka) as observed:
        with foreign_xdp_program(wire.near) as foreign:
            observed.until_it_says("somebody's XDP program runs before us")
            assert foreign.is_attached
        wait_until(lambda: observed.said.count("interface has changed") == 2, "it to go")
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)
    programs = published.column("interface", "foreign_xdp")

    assert [event for _, event in events(published)] == [
        *("attached", "changed", "changed", "detached")
    ]
    assert [bool(program) for program in programs] == [False, True, False, False]
