# SPDX-License-Identifier: Apache-2.0
"""Interfaces of other network namespaces, whose indexes are the same numbers as ours."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agent.test_life import refused
from tests.agent.test_watch import events, observed_links
from tests.lab.agents import Agent, agent, remove_pins
from tests.lab.links import HERE, Link, Namespace, link
from tests.lab.published import read_published
from tests.lab.traffic import ping
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.services]


@contextmanager
def process_in(namespace: Namespace) -> Iterator[subprocess.Popen]:
    """A process that does nothing but live there."""
    process = subprocess.Popen(["nsenter", f"--net=/run/netns/{namespace.name}", "sleep", "600"])
    inode = Path(f"/run/netns/{namespace.name}").stat().st_ino
    try:
        wait_until(
            lambda: Path(f"/proc/{process.pid}/ns/net").stat().st_ino == inode, "it to be inside"
        )
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_interfaces_of_one_index_in_several_namespaces_are_counted_apart(kafka, lab, hook):
    with link() as first, link() as second, process_in(second.far.namespace) as process:
        index = first.far.ifindex
        assert second.far.ifindex == index
        first_name, second_name = first.far.namespace.name, str(process.pid)
        before = {wire: wire.quiet() for wire in (first, second)}
        flags = ("--netns", first_name, "--netns", second_name, "--hook", hook)
        only_far = ("--interface", f"{first_name}/*b", "--interface", f"{second_name}/*b")
        with agent(*flags, *only_far, kafka=kafka) as observed:
            ping(first, count=3)
            ping(second, count=7)
            grown = {wire: wire.quiet() - before[wire] for wire in (first, second)}
            assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    for wire, netns in ((first, first_name), (second, second_name)):
        name = f"{netns}/{wire.far.name}"
        # What the near end sent is what the far one got.
        assert published.sums("ingress", interface=name)[0] == grown[wire].tx_packets
        assert published.sums("egress", interface=name)[0] == grown[wire].rx_packets
    assert set(published.column("interface", "ifindex")) == {index}
    assert set(published.column("interface", "netns")) == {first_name, second_name}
    assert not observed.pins.exists()


def make_again(wire: Link) -> None:
    HERE.run(
        *("ip", "link", "add", wire.near.name, "address", wire.near.mac, "type", "veth"),
        *("peer", "name", wire.far.name, "address", wire.far.mac),
        *("netns", wire.far.namespace.name),
    )
    for end, other in ((wire.near, wire.far), (wire.far, wire.near)):
        run = end.namespace.run
        run("sysctl", "-qw", f"net.ipv6.conf.{end.name}.disable_ipv6=1")
        run("ip", "link", "set", end.name, "up")
        run("ip", "address", "add", f"{end.ipv4}/30", "dev", end.name)
        run("ip", "neighbour", "replace", other.ipv4, "lladdr", other.mac, "dev", end.name)


def test_a_namespace_that_vanishes_is_let_go_and_one_that_returns_is_observed_again(kafka, lab):
    with link() as stays, link() as wire:
        netns = wire.far.namespace.name
        flags = ("--interface", stays.near.name, "--interface", f"{netns}/*b", "--netns", netns)
        with agent(*flags, "--interval", "0.2", kafka=kafka) as observed:
            ping(wire, count=3)
            HERE.run("ip", "netns", "del", netns)
            observed.until_it_says("network namespace is gone")
            # Nobody holds it any more, so its end of the link goes, and with it ours.
            wait_until(lambda: wire.near.name not in HERE.run("ip", "link"), "the link to go")
            HERE.run("ip", "netns", "add", netns)
            observed.until_it_says("network namespace is back")
            make_again(wire)
            wait_until(lambda: len(observed_links(observed)) == 4, "it to be attached to")
            ping(wire, count=5)
            assert observed.stop() == 0
    published = read_published(kafka, observed.name)
    name = f"{netns}/{wire.far.name}"

    assert published.sums("egress", interface=name)[0] == 8
    assert [event for one, event in events(published) if one == name] == [
        *("attached", "detached", "attached", "detached")
    ]
    assert not observed.pins.exists()


def test_what_a_killed_agent_had_in_a_namespace_that_is_not_asked_for_is_detached_by_the_next(lab):
    with link() as wire:
        netns = wire.far.namespace.name
        flags = ("--interface", wire.near.name, "--stop-timeout", "0.1")
        elsewhere = ("--netns", netns, "--interface", f"{netns}/*b")
        killed = Agent(*flags, *elsewhere).until_ready()
        links, index = observed_links(killed), wire.near.ifindex
        killed.kill()
        try:
            with agent(*flags, name=killed.name) as following:
                left = observed_links(following)
                following.stop()
        finally:
            remove_pins(killed)

    assert len(links) == 4
    assert left == {f"{direction}-{index}" for direction in ("ingress", "egress")}


def test_a_namespace_that_is_not_there_is_bad_usage():
    code, line = refused("--netns", "nosuch")

    assert code == 2
    assert line.startswith("agent: no network namespace 'nosuch': /run/netns/nosuch: No such file")


def test_our_own_namespace_is_not_given_twice():
    code, line = refused("--netns", "/proc/self/ns/net")

    assert code == 2
    assert line == "agent: --netns /proc/self/ns/net is the agent's own namespace; leave it out\n"
