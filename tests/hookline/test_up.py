# SPDX-License-Identifier: Apache-2.0
"""One command from packets to rows, and nothing left behind, however it ends."""

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import clickhouse_connect
import pytest

from agent.libbpf import BPF_TCX_EGRESS, BPF_TCX_INGRESS, BPF_XDP
from tests.hookline.ups import Up, hookline, up
from tests.lab.links import Link, link
from tests.lab.traffic import ping
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.services]

SUMS = "SELECT toString(direction), sum(packets), sum(bytes) FROM flows GROUP BY ALL ORDER BY ALL"


def sums(ingress: tuple[int, int], egress: tuple[int, int]) -> str:
    """What SUMS answers as CSV."""
    rows = [("ingress", *ingress), ("egress", *egress)]
    lines = ",".join(
        f'"{direction}",{packets},{size}\n' for direction, packets, size in sorted(rows)
    )
    return lines.replace("\n,", "\n")


def test_rows_equal_the_interface_counters_and_a_second_start_continues(wire, tmp_path):
    before = wire.quiet()
    with up(tmp_path, "--interface", wire.near.name) as first:
        ping(wire, count=7)
        children, attached_before = first.children(), attached(wire.near.name)
        code, said = first.stop()
        left = [child for child in children if is_running(child)], attached(wire.near.name)
    after_first = wire.quiet() - before
    answer_after_first = hookline("query", "--format=csv", f"--data={tmp_path}", SUMS).stdout
    with up(tmp_path, "--interface", wire.near.name) as second:
        ping(wire, count=5)
        second.stop(signal.SIGINT)
    grown = wire.quiet() - before

    assert code == 0, said
    assert (len(children), attached_before) == (3, 2)
    assert left == ([], 0)
    assert answer_after_first.endswith(sums(after_first.ingress, after_first.egress))
    answer = hookline("query", "--format=csv", f"--data={tmp_path}", SUMS).stdout
    assert answer.endswith(sums(grown.ingress, grown.egress))


def test_it_shows_flows_in_plain_lines_and_stops_after_its_time(wire, tmp_path):
    running = Up(tmp_path, "--interface", wire.near.name, "--for=6s")
    try:
        running.until_ready()
        ping(wire, count=3)
        code, said = running.wait()
    finally:
        running.end()

    assert code == 0, said
    assert f"{wire.far.ipv4}  {wire.near.ipv4}  icmp  {wire.near.name} ingress" in said


def test_when_it_is_killed_its_children_and_programs_end_too(wire, tmp_path):
    with up(tmp_path, "--interface", wire.near.name) as running:
        children = running.children()
        running.stop(signal.SIGKILL)

        wait_until(lambda: not any(map(is_running, children)), "its children to end", 60)

    assert len(children) == 3
    assert attached(wire.near.name) == 0


@pytest.mark.parametrize("name", ["kafka", "consumer", "agent"])
def test_when_one_part_is_killed_all_stops_with_one_line(wire, tmp_path, name):
    with up(tmp_path, "--interface", wire.near.name) as running:
        os.kill(child(running, name), signal.SIGKILL)
        code, said = running.wait()

    assert code == 1
    assert said.splitlines()[-1].startswith(f"hookline up: {name} ")
    assert attached(wire.near.name) == 0


def test_an_unknown_interface_is_refused_before_anything_starts(tmp_path):
    refused = hookline("up", "--interface=no-such-link", f"--data={tmp_path / 'new'}")

    assert refused.returncode == 2
    assert refused.stderr.startswith("hookline up: no interface matches 'no-such-link'; there are:")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_data_directory_that_cannot_be_written_is_named(wire):
    refused = hookline("up", f"--interface={wire.near.name}", "--data=/proc/version/history")

    assert refused.returncode == 1
    assert refused.stderr.startswith("hookline up: cannot write /proc/version")
    assert refused.stderr.count("\n") == 1


def test_a_taken_port_is_named(wire, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = hookline(
            "up", f"--interface={wire.near.name}", f"--data={tmp_path}", f"--http-port={port}"
        )

    assert refused.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert attached(wire.near.name) == 0


def test_without_root_it_says_so_in_one_line(tmp_path):
    tmp_path.chmod(0o777)
    refused = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", *_python(), "up", f"--data={tmp_path}"],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
    )

    assert refused.returncode == 1
    assert refused.stderr == "hookline up: loading eBPF programs needs root; run it with sudo\n"


@pytest.fixture(scope="module")
def shared(lab, tmp_path_factory) -> Iterator[tuple[Up, Link]]:
    """One that runs on a link of its own, for the last tests, which leave it as it was."""
    with (
        link() as wire,
        up(tmp_path_factory.mktemp("up"), "--interface", wire.near.name) as running,
    ):
        yield running, wire


def test_any_clickhouse_client_and_our_commands_read_while_it_runs(shared):
    running, wire = shared
    ping(wire, count=7)
    client = clickhouse_connect.get_client(dsn=f"{running.url}/hookline")
    question = "SELECT sum(packets) FROM flows WHERE icmp_type = 8 AND direction = 'ingress'"
    wait_until(lambda: client.query(question).result_rows == [(7,)], "seven echo requests")
    client.close()
    curled = subprocess.check_output(
        ["curl", "-s", f"{running.url}/?database=hookline", "--data", question], text=True
    )
    refused = subprocess.check_output(
        ["curl", "-s", running.url, "--data", "DROP TABLE hookline.flows"], text=True
    )
    listed = hookline("flows", "--since=5m", "--protocol=icmp", f"--data={running.data}")
    audit = ("audit", "--since=all", "--settle=2s", f"--data={running.data}")
    wait_until(lambda: not hookline(*audit).returncode, "books that are old enough, and balance")

    assert curled == "7\n"
    assert "DB::Exception" in refused
    assert wire.near.ipv4 in listed.stdout
    assert wire.far.ipv4 in listed.stdout


def test_what_a_rule_refuses_is_told_by_every_command_and_the_books_still_balance(shared):
    running, wire = shared
    data = f"--data={running.data}"
    agent = f"--agent={running.agent}"
    assert "would have refused" in hookline("drop", "simulate", "icmp", data).stdout
    added = hookline("drop", "add", "no-ping", "icmp and ingress", "--now", agent)
    assert not added.returncode, added.stderr
    pinging = ("ping", "-q", "-i", "0.01", "-c", "30", "-W", "0.1", wire.near.ipv4)
    with pytest.raises(RuntimeError, match="100% packet loss"):
        wire.far.namespace.run(*pinging)
    assert "no-ping" in hookline("drop", "list", agent).stdout
    question = "SELECT max(over_packets) FROM rules WHERE rule = 'no-ping' AND state = 'enforced'"
    asked = ("query", question, data, "--format=csv")
    wait_until(lambda: hookline(*asked).stdout == '"max(over_packets)"\n30\n', "30 refused")
    assert "removed no-ping" in hookline("drop", "remove", "no-ping", agent).stdout
    audit = ("audit", "--since=all", "--settle=2s", data)
    wait_until(lambda: not hookline(*audit).returncode, "books that balance")
    assert "rule no-ping: 30 packets and 2,940 bytes were refused" in hookline(*audit).stdout


def test_a_data_directory_serves_one_at_a_time(shared):
    running, wire = shared
    refused = hookline("up", f"--interface={wire.near.name}", f"--data={running.data}")

    assert refused.returncode == 1
    assert refused.stderr == (
        f"hookline up: another hookline up uses {running.data}; choose another --data\n"
    )


def _python() -> list[str]:
    # A root whose home nobody else may enter keeps its interpreter there at times.
    code = (
        "import os, sys; sys.argv[0] = 'hookline'; from hookline.cli import main; sys.exit(main())"
    )
    return [str(Path(__file__).parents[2] / ".venv/bin/python"), "-c", code]


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def child(running: Up, name: str) -> int:
    """The process id of one part."""
    words = {"kafka": b"kafka.Kafka", "consumer": b"\0consumer\0", "agent": b"\0agent\0"}
    (pid,) = (
        pid
        for pid in running.children()
        if words[name] in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return pid


def attached(interface: str) -> int:
    """How many programs are attached to an interface at XDP and tcx, as the kernel says."""
    libbpf = ctypes.CDLL("libbpf.so.1")
    found = 0
    for attach_type in (BPF_XDP, BPF_TCX_INGRESS, BPF_TCX_EGRESS):
        count = ctypes.c_uint32(0)
        libbpf.bpf_prog_query(
            socket.if_nametoindex(interface), attach_type, 0, None, None, ctypes.byref(count)
        )
        found += count.value
    return found
