# SPDX-License-Identifier: Apache-2.0
"""`hookline doctor` tells what works and what mends the rest, one line for each."""

import argparse
import json
import os
import subprocess
import sys

import pytest

from agent.capabilities import TO_ATTACH, bits
from consumer.config import Config
from consumer.migrations import migrate
from consumer.sink import Sink, SinkError
from hookline.broker_files import LOOPBACK
from hookline.checks import agents, machine, servers
from hookline.checks.result import Result, State
from hookline.doctor import OPTIONS, findings
from hookline.remote import RemoteError
from schemas.catalogue import RECORDS
from schemas.rollup import ROLLUPS
from service.options import Dsn
from tests.consumer.clickhouse_server import Server
from tests.consumer.process import create_topics
from tests.hookline.ups import ROOT, up
from tests.lab.agents import agent
from tests.lab.foreign import foreign_xdp_program
from tests.services.secure_broker import broker_of

NOWHERE = f"{LOOPBACK}:9"


def doctor(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hookline", "doctor", *flags],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def said(results: list[Result], check: str) -> list[tuple[str, str]]:
    return [(one.state.value, one.text) for one in results if one.check == check]


# The machine.


@pytest.mark.parametrize(
    ("release", "state", "text"),
    [
        ("6.6.1-generic", State.OK, "Linux 6.6.1-generic: sockets"),
        ("6.5.0", State.WARN, "Linux 6.5.0 has no tcx; it is clsact filters instead"),
        ("5.10.0", State.WARN, "has no rows about sockets, no jumbo frames at native XDP, no tcx"),
        ("5.9.16", State.FAIL, "Linux 5.9.16 is too old"),
        ("nonsense", State.FAIL, "too old"),
    ],
)
def test_the_kernel_is_told_with_what_it_lacks(release, state, text):
    found = machine.kernel(release)

    assert found.state is state
    assert text in found.text


def test_programs_that_are_interpreted_are_told(tmp_path):
    (tmp_path / "jit").write_text("0\n")

    assert machine.jit(tmp_path / "jit").state is State.WARN
    (tmp_path / "jit").write_text("1\n")
    assert machine.jit(tmp_path / "jit").state is State.OK
    assert machine.jit(tmp_path / "none").state is State.OK


def test_a_lockdown_that_refuses_the_programs_fails(tmp_path):
    (tmp_path / "lockdown").write_text("none integrity [confidentiality]\n")

    assert machine.lockdown(tmp_path / "lockdown").state is State.FAIL
    (tmp_path / "lockdown").write_text("none [integrity] confidentiality\n")
    assert machine.lockdown(tmp_path / "lockdown") == Result("lockdown", State.OK, "integrity")
    assert machine.lockdown(tmp_path / "none").state is State.OK


def test_a_bpf_file_system_that_is_not_mounted_is_told(tmp_path):
    assert machine.bpf_filesystem(tmp_path).fix == f"mount it: mount -t bpf bpf {tmp_path}"
    assert machine.bpf_filesystem(tmp_path / "none").state is State.FAIL


def test_cgroups_of_version_1_alone_are_told():
    v1 = "30 1 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    v2 = "31 1 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"

    assert machine.cgroups(v1).state is State.WARN
    assert machine.cgroups(v1 + v2) == Result("cgroups", State.OK, "version 2 at /sys/fs/cgroup")


def test_rights_that_are_missing_are_named():
    nothing, enough = "CapEff:\t0000000000000000\n", f"CapEff:\t{bits(TO_ATTACH):016x}\n"

    assert machine.rights(enough, uid=0).state is State.OK
    assert "CAP_BPF" in machine.rights(nothing, uid=0).text
    assert machine.rights(enough, uid=1000).fix == "run it as root: sudo hookline doctor"


def test_a_library_that_is_missing_is_told_with_its_package():
    assert machine.libraries().state is State.OK
    assert machine.libraries(library="libnone.so.1").fix == "install libbpf1"
    assert machine.libraries(module="no_such_module").fix == "install python3-bpfcc"


def test_a_clock_that_nobody_keeps_is_told():
    assert machine.clock(state=0).state is State.OK
    assert machine.clock(state=5).state is State.WARN
    assert machine.kernel_clock_state() in range(6)


# The agents.


def test_a_node_without_agents_is_told():
    (found,) = agents.agents(names=list)

    assert found.state is State.WARN
    assert "hookline up" in found.fix


@pytest.mark.parametrize(("code", "state"), [(1, State.FAIL), (2, State.WARN)])
def test_an_agent_that_does_not_tell_is_told(code, state):
    def refuse(_):
        raise RemoteError("no answer", code)

    (found,) = agents.agents(names=lambda: ["web"], ask=refuse)

    assert found.state is state
    assert found.text.startswith("web ")


@pytest.mark.kernel
def test_a_running_agent_is_told_with_hooks_and_what_it_may_do(wire):
    near = wire.near.name
    with agent(f"--interface={near}", "--owners=no") as observed:
        found = agents.agents(names=lambda: [observed.name])
        held = agents._held_names()

    assert observed.name in held
    (runs,) = said(found, "agent")
    assert runs[1].startswith(f"{observed.name} runs as process {observed.pid} and observes 1")
    ((state, text),) = said(found, "interface")
    assert state == "ok"
    assert text.startswith(f"{near}: in at tcx, out at tcx; a virtual link, where native XDP would")
    assert said(found, "privileges") == [
        ("ok", "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and no new ones, in its only thread")
    ]


@pytest.mark.kernel
def test_a_hook_that_was_asked_for_is_told_as_such(wire):
    with agent(f"--interface={wire.near.name}", "--hook=xdp") as observed:
        ((state, text),) = said(agents.agents(names=lambda: [observed.name]), "interface")

    assert state == "ok"
    assert text.endswith("in at xdp, out at tcx; asked for by --hook xdp")


@pytest.mark.kernel
def test_a_foreign_program_is_told_where_it_is(wire):
    near = wire.near.name
    with foreign_xdp_program(wire.near), agent(f"--interface={near}", "--hook=xdp") as observed:
        ((state, text),) = said(agents.agents(names=lambda: [observed.name]), "interface")
        everywhere = agents.foreign_xdp()

    assert state == "warn"
    assert "somebody else's XDP program is there" in text
    assert f"{near} (id " in everywhere.text


def test_our_own_programs_are_not_foreign():
    assert agents.foreign_xdp(lambda: {"eth0": (7,)}, lambda: {7}).state is State.OK
    assert agents.foreign_xdp(lambda: {"eth0": (7, 9)}, lambda: {7}).text.count("id 9") == 1


def test_privileges_that_are_too_many_are_told(tmp_path):
    for thread, effective in ((10, "000000c000001000"), (11, "000001ffffffffff")):
        (tmp_path / f"10/task/{thread}").mkdir(parents=True)
        status = f"CapEff:\t{effective}\nNoNewPrivs:\t1\n"
        (tmp_path / f"10/task/{thread}/status").write_text(status)

    assert "2 threads may do more" in agents.privileges(10, tmp_path).text
    (tmp_path / "10/task/11/status").write_text("CapEff:\t000000c000001000\nNoNewPrivs:\t0\n")
    assert "may gain rights" in agents.privileges(10, tmp_path).text
    assert agents.privileges(11, tmp_path).state is State.WARN


def test_what_a_killed_agent_left_is_told(tmp_path):
    for name in ("runs", "was-killed"):
        (tmp_path / name).mkdir()

    (found,) = agents.leftovers(tmp_path, names=lambda: ["runs"])

    assert found.text.startswith("agent was-killed does not run")
    assert found.fix.endswith("hookline agent --detach --name was-killed")
    assert agents.leftovers(tmp_path / "none") == []


# The servers.


@pytest.mark.services
def test_a_broker_that_lets_us_in_is_told_with_how(secure_kafka):
    by_password = servers.kafka(broker_of(secure_kafka.options("PASSWORD", "consumer")))
    by_certificate = servers.kafka(broker_of(secure_kafka.options("CERTIFICATE", "consumer")))

    ((state, text),) = said(by_password, "kafka")
    assert (state, text.partition(" lets us in by ")[2]) == ("ok", "sasl_ssl as 'consumer'")
    assert said(by_certificate, "kafka")[0][1].endswith("ssl with our certificate")
    assert said(by_certificate, "topics") == [("ok", f"all {len(servers.TOPICS)} are there")]


@pytest.mark.services
def test_a_broker_that_does_not_is_told_with_the_reason(secure_kafka):
    wrong = secure_kafka.options("PASSWORD") | {"kafka_password": "guessed"}

    (refused,) = servers.kafka(broker_of(wrong))
    (away,) = servers.kafka(broker_of({"kafka": NOWHERE}))

    assert refused.state is State.FAIL
    assert "it refuses user 'agent'" in refused.text
    assert (away.text, away.fix) == (f"{NOWHERE}: no broker answers", "start it, or give --kafka")


@pytest.mark.services
async def test_topics_that_are_missing_are_named(kafka):
    await create_topics(kafka, ["doctor.there"], partitions=1)
    wanted = ["doctor.there", "doctor.a", "doctor.b"]

    _, found = await servers._kafka(broker_of({"kafka": kafka}), wanted)

    assert found.state is State.WARN
    assert found.text.startswith("doctor.a, doctor.b are missing")


@pytest.mark.services
def test_tables_are_told_as_they_are(tmp_path):
    with Server(tmp_path / "db") as server:
        config = Config(clickhouse=Dsn(server.url))
        before = servers.clickhouse(config)
        sink = Sink(server.url)
        sink.connect(["flows"])
        migrate(sink, RECORDS, retention_days=30, failures=SinkError, rollups=ROLLUPS)
        after = servers.clickhouse(config)
        sink.execute("ALTER TABLE hookline.flows DROP COLUMN vni")
        sink.execute("ALTER TABLE hookline.flows ADD COLUMN vni String")
        changed = servers.clickhouse(config)
        sink.close()

    assert said(before, "clickhouse") == [("ok", f"{server.url} lets us in as 'default'")]
    assert said(before, "tables")[0][0] == "warn"
    assert "CREATE TABLE IF NOT EXISTS hookline.flows" in said(before, "tables")[0][1]
    assert said(after, "tables") == [
        ("ok", f"all {len(RECORDS) + len(ROLLUPS)} are as this version wants them")
    ]
    ((state, text),) = said(changed, "tables")
    assert state == "fail"
    assert text.startswith("column hookline.flows.vni has type String")


def test_a_server_that_is_away_is_told():
    (found,) = servers.clickhouse(Config(clickhouse=Dsn(f"http://{NOWHERE}")))

    assert found.state is State.FAIL
    assert (found.text, found.fix) == (
        f"http://{NOWHERE}: no server answers",
        "start it, or give --clickhouse",
    )


@pytest.mark.parametrize(("ahead_s", "said"), [(1.9, ""), (2.1, "ahead of"), (-3.0, "behind")])
def test_clocks_that_differ_are_told(ahead_s, said):
    assert [said in one.text for one in servers._clocks(ahead_s)] == [True] * bool(said)


# The command.


def test_half_of_it_may_be_missing(tmp_path):
    done = doctor(f"--kafka={NOWHERE}", f"--data={tmp_path}", "--json")

    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert done.stderr == ""
    assert {"kernel", "clock", "configuration", "kafka"} <= {one["check"] for one in told}
    assert all(one["state"] in ("ok", "warn", "fail") and one["text"] for one in told)
    assert all(one["fix"] or ";" in one["text"] for one in told if one["state"] != "ok")


def test_a_line_is_a_state_a_check_a_finding_and_what_mends_it(tmp_path):
    lines = doctor(f"--kafka={NOWHERE}", f"--data={tmp_path}").stdout.splitlines()

    (kafka,) = (line for line in lines if " kafka " in line)
    assert kafka == (
        f"fail  kafka            {NOWHERE}: no broker answers; start it, or give --kafka"
    )


def test_a_configuration_that_cannot_be_used_is_a_finding(tmp_path):
    file = tmp_path / "hookline.toml"
    file.write_text('[consumer]\nclickhouse = "http://me:hunter2@[db"\n')

    done = doctor(f"--config={file}")

    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if " configuration " in line]
    assert [line[:4] for line in lines] == ["ok  ", "fail"]
    assert "hunter2" not in done.stdout + done.stderr


def test_somebody_who_is_not_root_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    given = dict.fromkeys(OPTIONS) | {"kafka": NOWHERE, "config": None, "data": tmp_path}

    found = list(findings(argparse.Namespace(**given)))

    assert "user 1000 sees neither agents nor pins" in said(found, "rights")[0][1]
    assert not said(found, "agents")


@pytest.mark.kernel
@pytest.mark.services
def test_a_running_hookline_up_is_found_with_all_its_parts(wire, tmp_path):
    with up(tmp_path, f"--interface={wire.near.name}") as running:
        done = doctor(f"--data={tmp_path}", "--json")
        told = [json.loads(line) for line in done.stdout.splitlines()]

    by_check = {one["check"]: one for one in told}
    assert by_check["configuration"]["text"] == f"hookline up of {tmp_path}"
    assert by_check["clickhouse"]["text"].startswith(running.url)
    for check in ("kafka", "topics", "clickhouse", "tables"):
        assert by_check[check]["state"] == "ok", by_check[check]
    interfaces = [one["text"] for one in told if one["check"] == "interface"]
    assert any(text.startswith(f"{wire.near.name}: in at tcx") for text in interfaces)


def test_what_each_service_is_told_is_looked_at(tmp_path):
    password = tmp_path / "password"
    password.write_text("of the agent")
    password.chmod(0o644)
    file = tmp_path / "hookline.toml"
    file.write_text(
        f'kafka = "{NOWHERE}"\nkafka_security = "sasl_plaintext"\nkafka_user = "me"\n'
        f'[agent]\nkafka_password_file = "{password}"\n'
        f'[consumer]\nkafka_password_file = "{tmp_path}/none"\n'
    )

    told = [json.loads(line) for line in doctor("--json", f"--config={file}").stdout.splitlines()]

    about = [(one["state"], one["text"]) for one in told if one["check"] == "configuration"]
    assert about[0] == ("ok", f"{file}, for agent")
    assert about[1][0] == "warn"
    assert about[1][1].startswith(f"consumer: cannot read kafka_password_file {tmp_path}/none")
    assert {text.partition(" ")[0] for _, text in about[2:]} == {
        "kafka_password_file",
        "kafka_security",
    }
