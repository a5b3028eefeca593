# SPDX-License-Identifier: Apache-2.0
"""What the paths of cgroups tell, and real cgroups that come and go."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.cgroups import WALK_REST, Cgroups
from agent.hierarchy import Hierarchies, cgroups_of, hierarchies, texts_of, walk
from tests.lab.cgroups import Cgroup, a_cgroup

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
POD = "kubepods-burstable-pod01234567_89ab_cdef_0123_456789abcdef.slice"

PATHS = {
    "/": ("", ""),
    "/init.scope": ("init.scope", ""),
    "/system.slice/nginx.service": ("nginx.service", ""),
    "/system.slice/system-getty.slice/getty@tty1.service": ("getty@tty1.service", ""),
    "/user.slice/user-1000.slice/session-3.scope": ("session-3.scope", ""),
    "/user.slice/user-1000.slice/user@1000.service/init.scope": ("user@1000.service", ""),
    "/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-7.scope": (
        "app-firefox-7.scope",
        "",
    ),
    f"/system.slice/docker-{ID}.scope": (f"docker-{ID}.scope", ID),
    f"/docker/{ID}": ("", ID),
    f"/system.slice/docker-{ID}.scope/system.slice/sshd.service": ("sshd.service", ID),
    f"/docker/{ID}/kubelet/kubepods/burstable/pod7/{OTHER}": ("", OTHER),
    f"/kubepods.slice/kubepods-burstable.slice/{POD}/cri-containerd-{ID}.scope": (
        f"cri-containerd-{ID}.scope",
        ID,
    ),
    f"/kubepods.slice/{POD}/crio-{ID}.scope": (f"crio-{ID}.scope", ID),
    f"/kubepods/besteffort/pod0123/{ID}": ("", ID),
    f"/system.slice/containerd.service/{POD}:cri-containerd:{ID}": ("containerd.service", ID),
    f"/machine.slice/libpod-{ID}.scope/container": (f"libpod-{ID}.scope", ID),
    f"/machine.slice/libpod-conmon-{ID}.scope": (f"libpod-conmon-{ID}.scope", ""),
    f"/kubepods.slice/{POD}/crio-conmon-{ID}.scope": (f"crio-conmon-{ID}.scope", ""),
    f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope": (
        f"libpod-{ID}.scope",
        ID,
    ),
    f"/docker/{ID[:-1]}": ("", ""),
}


@pytest.mark.parametrize(("path", "told"), PATHS.items(), ids=lambda value: str(value)[:40])
def test_a_path_tells_unit_and_container(path, told):
    assert texts_of(path) == (path, *told)


def test_the_hierarchies_are_where_the_mounts_say():
    v1 = "31 23 0:28 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
    v2 = "41 31 0:38 / /run/my\\040cgroups rw,relatime shared:4 - cgroup2 cgroup2 rw\n"

    assert hierarchies(v2) == Hierarchies(Path("/run/my cgroups"), has_v1=False)
    assert hierarchies(v1 + v2) == Hierarchies(Path("/run/my cgroups"), has_v1=True)
    assert hierarchies(v1) == Hierarchies(None, has_v1=True)


def test_of_v1_paths_the_one_that_tells_most_stands(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(
        f"4:memory:/docker/{ID}\n3:cpu,cpuacct:/a/very/long/path/that/tells/nothing\n"
        "1:name=systemd:/system.slice/docker.service\n0::/\n"
    )
    found = cgroups_of(7, tmp_path)

    assert found is not None
    assert (found.unified, found.v1) == ("/", f"/docker/{ID}")
    assert cgroups_of(8, tmp_path) is None


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_a_cgroup_may_be_named_with_what_ends_lines_elsewhere(tmp_path, end):
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_bytes(f"1:cpu:/a{end}b\n0::/c{end}d.service\n".encode())

    found = cgroups_of(7, tmp_path)

    assert found
    assert (found.unified, found.v1) == (f"/c{end}d.service", f"/a{end}b")


@pytest.fixture
def service(lab) -> Iterator[Cgroup]:
    with a_cgroup("web.service") as made:
        yield made


def names(cgroups: Cgroups, *numbers: int) -> list[tuple[str, str, str]]:
    columns = cgroups.columns(np.array(numbers, np.uint64))
    texts = [[one.categories[code] for code in one.codes] for one in columns.values()]
    return list(zip(*texts, strict=True))


def located(cgroups: Cgroups, pid: int, number: int, now: float = 0.0) -> int:
    (found,) = cgroups.located(np.array([pid], np.uint32), np.array([number], np.uint64), now)
    return int(found)


@pytest.mark.kernel
def test_an_unknown_cgroup_is_named_by_its_process_at_once(service):
    cgroups = Cgroups()
    with service.running("sleep", "60") as process:
        assert located(cgroups, process.pid, service.number) == service.number

    assert names(cgroups, service.number) == [(service.path, "web.service", "")]
    assert not cgroups.is_walk_due(0.0)


@pytest.mark.kernel
def test_a_cgroup_whose_process_has_gone_is_found_by_a_walk_and_stays_known(lab):
    cgroups = Cgroups()
    with a_cgroup(f"docker-{ID}.scope") as made:
        located(cgroups, 0, made.number)
        assert names(cgroups, made.number) == [("", "", "")]
        assert cgroups.is_walk_due(0.0)
        cgroups.learn(walk(cgroups.root), now=0.0)
        number = made.number

    assert names(cgroups, number) == [(made.path, f"docker-{ID}.scope", ID)]
    assert not cgroups.is_walk_due(10.0)


@pytest.mark.kernel
def test_a_number_that_nobody_has_is_sought_once_and_then_the_search_rests(lab):
    cgroups = Cgroups()
    located(cgroups, 0, 1 << 40)
    cgroups.learn(walk(cgroups.root), now=100.0, took_seconds=0.5)
    located(cgroups, 0, 1 << 40)

    assert not cgroups.is_walk_due(200.0)
    located(cgroups, 0, 1 << 41)
    assert not cgroups.is_walk_due(99.9 + WALK_REST / 2)
    assert cgroups.is_walk_due(100.0 + WALK_REST / 2)


def test_where_processes_live_in_v1_their_path_there_stands_in(tmp_path):
    root = tmp_path / "unified"
    root.mkdir()
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text("1:name=systemd:/system.slice/cron.service\n0::/\n")
    cgroups = Cgroups(Hierarchies(root, has_v1=True), proc=tmp_path)
    number = located(cgroups, 7, root.stat().st_ino)

    assert names(cgroups, number) == [("/system.slice/cron.service", "cron.service", "")]
    # It keeps what it was told for a while, since a socket's rows come later than its process.
    (tmp_path / "7" / "cgroup").unlink()
    assert located(cgroups, 7, 0, now=4.9) == number
    assert names(cgroups, located(cgroups, 7, 0, now=5.0)) == [("/", "", "")]


def test_a_machine_without_v1_needs_no_process_to_say_that_it_is_in_the_root(tmp_path):
    cgroups = Cgroups(Hierarchies(tmp_path, has_v1=False), proc=tmp_path / "hidden")

    assert names(cgroups, located(cgroups, 7, tmp_path.stat().st_ino)) == [("/", "", "")]


def test_names_are_true_of_our_own_process():
    found = cgroups_of(int(Path("/proc/self").readlink().name))
    text = subprocess.run(
        ["cat", "/proc/self/cgroup"], check=True, capture_output=True, text=True
    ).stdout

    assert found is not None
    assert f"0::{found.unified}\n" in text
    assert not found.v1 or f":{found.v1}\n" in text
