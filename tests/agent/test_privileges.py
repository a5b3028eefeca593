# SPDX-License-Identifier: Apache-2.0
"""What a running agent may still do, as the kernel tells of each of its threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.capabilities import bits, capability_set, names_of, status_field
from tests.agent.test_netns import process_in
from tests.lab.agents import ROOT, agent
from tests.lab.captures import capturing
from tests.lab.cgroups import a_cgroup
from tests.lab.links import link, unique_name
from tests.lab.published import read_published
from tests.lab.traffic import ping
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.kernel

TO_ATTACH = {"CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"}
TO_SEE_PROCESSES = {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}
NOTHING: set[str] = set()


def sets_of(pid: int) -> list[dict[str, set[str]]]:
    """The capability sets of every thread."""
    texts = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [
        {
            name: set(names_of(capability_set(name, text)))
            for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")
        }
        for text in texts
    ]


def may_do_exactly(kept: set[str]) -> dict[str, set[str]]:
    return {
        "CapEff": kept,
        "CapPrm": kept,
        "CapBnd": kept,
        "CapInh": NOTHING,
        "CapAmb": NOTHING,
    }


def gains_nothing(pid: int) -> bool:
    texts = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return all(status_field("NoNewPrivs", text) == "1" for text in texts)


@pytest.mark.parametrize(
    ("flags", "kept", "said"),
    [
        (["--owners=no"], TO_ATTACH, "to load and attach programs'"),
        # Events tell of every socket, so processes are looked at once, before.
        (["--sockets=yes"], TO_ATTACH, "to load and attach programs'"),
        (["--sockets=no"], TO_ATTACH | TO_SEE_PROCESSES, "; CAP_SYS_PTRACE and CAP_DAC_READ"),
        (["--owners=no", "--buffer=perf"], TO_ATTACH, "to load and attach programs'"),
        (["--owners=no", "--hook=xdp", "--tc=clsact"], TO_ATTACH, "to load and attach programs'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_agent_keeps_what_it_needs_and_says_so(wire, flags, kept, said):
    # Its metrics are served by a thread.
    flags = ["--metrics-listen=127.0.0.1:0", *flags]
    with agent("--interface", wire.near.name, *flags) as observed:
        found = sets_of(observed.pid)

        assert len(found) > 1
        assert found == [may_do_exactly(kept)] * len(found)
        assert gains_nothing(observed.pid)
        (line,) = (line for line in observed.lines if "privileges given up" in line)
        assert said in line
        assert "threads keep" not in observed.said


def test_sockets_of_one_cgroup_leave_others_to_be_looked_for(wire):
    with a_cgroup("observed") as cgroup:
        flags = ["--sockets=yes", f"--cgroup={cgroup.directory}"]
        with agent("--interface", wire.near.name, *flags) as observed:
            found = sets_of(observed.pid)

    assert found == [may_do_exactly(TO_ATTACH | TO_SEE_PROCESSES)] * len(found)


def test_other_namespaces_cost_more_and_most_by_process_id(wire):
    flags = ["--owners=no", f"--interface={wire.near.name}"]
    name = wire.far.namespace.name
    with agent(*flags, f"--netns={name}") as observed:
        by_name = sets_of(observed.pid)
    with (
        process_in(wire.far.namespace) as process,
        agent(*flags, f"--netns={process.pid}") as observed,
    ):
        by_process = sets_of(observed.pid)

    assert by_name == [may_do_exactly(TO_ATTACH | {"CAP_SYS_ADMIN"})] * len(by_name)
    kept = TO_ATTACH | {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE"}
    assert by_process == [may_do_exactly(kept)] * len(by_process)


@pytest.mark.services
@pytest.mark.parametrize("flags", [["--tc=tcx"], ["--tc=clsact"], ["--hook=xdp"]], ids=str)
def test_what_comes_later_works_without_them(kafka, lab, flags, tmp_path):
    """Attach, swap programs that were compiled meanwhile and swap them back, detach."""
    pattern = f"{unique_name().partition('-')[0]}-*a"
    flags = [f"--interface={pattern}", "--owners=no", "--interval=0.2", *flags]
    with agent(*flags, kafka=kafka) as observed, link() as later:
        until_tells(observed, later.near.name)
        assert sets_of(observed.pid)[0] == may_do_exactly(TO_ATTACH)
        with capturing(observed, tmp_path / "ping.pcapng", "icmp") as captured:
            ping(later, count=3)
            frames = captured.stop().frames
        grown = later.quiet()
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert len(frames) == 6
    assert published.sums("egress", interface=later.near.name)[0] == grown.tx_packets
    assert published.sums("ingress", interface=later.near.name)[0] == grown.rx_packets
    assert not observed.pins.exists()


@pytest.mark.services
def test_a_namespace_is_observed_later_without_the_rest(kafka, lab):
    with link() as wire:
        netns = wire.far.namespace.name
        flags = [f"--netns={netns}", "--owners=no", f"--interface={netns}/*"]
        with agent(*flags, kafka=kafka) as observed:
            wire.far.namespace.run("ip", "link", "add", "later0", "type", "veth")
            until_tells(observed, f"{netns}/later0")
            assert observed.stop() == 0


def until_tells(observed, interface):
    wait_until(lambda: f"interface={interface} " in observed.said, f"{interface} to be observed")


def test_files_that_are_not_roots_stay_readable_with_a_warning(tmp_path):
    private = tmp_path / "private"
    private.write_text("of somebody")
    private.chmod(0o600)
    os.chown(private, 65534, 65534)
    script = (
        "import sys; from pathlib import Path; from agent.privileges import keep_only, Need;"
        "from service.logs import configure; configure('info');"
        "keep_only([Need(('CAP_BPF',), 'to try')], readable=[Path(sys.argv[1])]);"
        "Path(sys.argv[1]).read_text(); print(Path('/proc/self/status').read_text())"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, private],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert capability_set("CapEff", done.stdout) == bits({"CAP_BPF", "CAP_DAC_READ_SEARCH"})
    assert f"path={private}" in done.stderr
