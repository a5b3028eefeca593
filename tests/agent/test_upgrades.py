# SPDX-License-Identifier: Apache-2.0
"""An agent with other options, other sizes or of another version goes on without a packet uncounted.

The oracle is the interface's own counters, over the whole time.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from agent.plan import root_of
from tests.lab.agents import ROOT
from tests.lab.succession import assert_books_balance, successors
from tests.lab.traffic import ping, traffic

pytestmark = [pytest.mark.kernel, pytest.mark.services]


@pytest.mark.parametrize(
    "change", [("--sample", "7"), ("--dns", "yes"), ("--tunnels", "both")], ids=" ".join
)
def test_other_options_take_other_programs_and_keep_the_maps(kafka, wire, change):
    before = wire.quiet()
    with successors("--interface", wire.near.name, kafka=kafka) as line:
        layout = {path.name for path in root_of(line.name).iterdir()}
        with traffic(wire):
            time.sleep(0.3)
            line.latest.stop()
            line.following(*change)
            time.sleep(0.3)
        grown = wire.quiet() - before
        assert {path.name for path in root_of(line.name).iterdir()} == layout
        published = line.finish()

    assert_books_balance(published, grown.ingress, grown.egress)


def test_who_would_observe_at_tc_goes_on_at_xdp_where_an_agent_was_before(kafka, wire):
    # Fragments, which go on in another program.
    packet = IP(src=wire.far.ipv4, dst="198.18.255.9", flags="MF", id=7) / UDP(sport=7, dport=9)
    fragment = bytes(Ether(src=wire.far.mac, dst=wire.near.mac) / packet / bytes(64))
    before = wire.quiet()
    with successors("--interface", wire.near.name, "--hook", "xdp-generic", kafka=kafka) as line:
        ping(wire)
        line.latest.kill()
        wire.far.send([fragment] * 3)
        line.following("--hook", "auto")
        wire.far.send([fragment] * 5)
        ping(wire)
        grown = wire.quiet() - before
        published = line.finish()

    assert "ingress=xdp_generic" in line.latest.said
    assert_books_balance(published, grown.ingress, grown.egress)
    ports = published.column("flow", "src_port")
    assert int(published.column("flow", "packets")[ports == 7].sum()) == 8


@pytest.mark.parametrize("end", ["stopped", "killed"])
@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_other_sizes_take_other_maps_and_what_was_in_the_first_is_told(kafka, wire, end, hook):
    before = wire.quiet()
    flags = ("--interface", wire.near.name, "--interval", "0.3", "--tc", hook)
    with successors(*flags, "--flow-slots", "256", kafka=kafka) as line:
        first = line.latest
        with traffic(wire):
            time.sleep(0.7)
            first.stop() if end == "stopped" else first.kill()
            following = line.following("--flow-slots", "4096")
            time.sleep(0.5)
        ping(wire)
        grown = wire.quiet() - before
        folders = [path.name for path in root_of(line.name).iterdir()]
        published = line.finish()

    assert "takes the place of an earlier agent" in following.said
    assert len(folders) == 2  # the links, and one layout
    assert_books_balance(published, grown.ingress, grown.egress)


@pytest.fixture(scope="module")
def another_version(tmp_path_factory) -> Path:
    """This agent with its structs laid out otherwise, as an earlier or later one might have."""
    root = tmp_path_factory.mktemp("version")
    for folder in ("agent", "bpf", "schemas", "service"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path, before, after in (
        # The lane's parts in another order, and totals with a counter that is unknown to us.
        (
            "schemas/flow.py",
            '(("point", 12), ("vlan", 12), ("dscp", 6)',
            '(("dscp", 6), ("point", 12), ("vlan", 12)',
        ),
        ("schemas/flow.py", '(("point", 12), ("context", 18)', '(("context", 18), ("point", 12)'),
        (
            "schemas/ledger.py",
            "        pad(56),",
            '        Field("unheard_of", U64, ""),\n        pad(48),',
        ),
    ):
        text = (root / path).read_text()
        assert before in text
        (root / path).write_text(text.replace(before, after))
    # The context's number must begin where VLAN and DSCP do; see bpf/contexts.bpf.h.
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run(
        [sys.executable, "-m", "schemas.generate"], cwd=root, env=environment, check=False
    )
    return root


def test_another_version_with_other_structs_is_succeeded_without_a_packet_uncounted(
    kafka, wire, another_version
):
    before = wire.quiet()
    flags = ("--interface", wire.near.name, "--interval", "0.3")
    with successors(*flags, kafka=kafka, root=another_version) as line:
        with traffic(wire):
            time.sleep(0.7)
            line.latest.kill()
            following = line.following()
            time.sleep(0.5)
        grown = wire.quiet() - before
        published = line.finish()

    assert "takes the place of an earlier agent" in following.said
    assert_books_balance(published, grown.ingress, grown.egress)
