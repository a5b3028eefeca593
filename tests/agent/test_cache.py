# SPDX-License-Identifier: Apache-2.0
"""The folder of what was compiled: what comes out is what went in, or nothing, and never a fault."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.cache import MOST_FILES, Cache

KEY = "5e" * 32
OTHER_KEY = "0f" * 32
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="chown and mount need root")


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def warning_of(cache: Cache) -> str:
    (warning,) = cache.warnings
    return warning


def refused(cache: Cache) -> str:
    """What is said of a file that nobody reads."""
    assert cache.get(KEY) is None
    return warning_of(cache)


def test_what_was_put_is_what_one_gets(cache):
    cache.put(KEY, b"compiled")
    cache.put(OTHER_KEY, b"another")
    cache.put(KEY, b"compiled again")

    assert cache.get(KEY) == b"compiled again"
    assert cache.get(OTHER_KEY) == b"another"
    assert cache.warnings == []


def test_nothing_is_there_at_first_and_that_is_no_fault(cache):
    assert cache.get(KEY) is None
    assert cache.warnings == []


def test_only_its_owner_may_enter_the_folder_or_read_a_file(cache):
    cache.put(KEY, b"compiled")

    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert (cache.folder / KEY).stat().st_mode & 0o777 == 0o600


def test_systemd_says_where_the_folder_is(tmp_path, monkeypatch):
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "given"))
    given = Cache().folder
    monkeypatch.delenv("CACHE_DIRECTORY")

    assert given == tmp_path / "given"
    assert Cache().folder == Path("/var/cache/hookline")


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o1777])
def test_a_folder_that_others_may_write_to_is_not_used(cache, mode):
    cache.put(KEY, b"compiled")
    cache.folder.chmod(mode)

    assert refused(cache) == (
        f"compiled programs are not kept in {cache.folder}: others may write to it;"
        " make it a folder that only root may write to, or remove it"
    )
    cache.put(OTHER_KEY, b"another")
    assert not (cache.folder / OTHER_KEY).exists()
    assert len(cache.warnings) == 1


@needs_root
def test_a_folder_of_somebody_else_is_not_used(cache):
    cache.put(KEY, b"compiled")
    os.chown(cache.folder, NOBODY, 0)

    assert f"it belongs to user {NOBODY}" in refused(cache)


def test_a_folder_that_is_elsewhere_by_a_link_is_not_used(cache, tmp_path):
    Cache(tmp_path / "real").put(KEY, b"compiled")
    cache.folder.symlink_to(tmp_path / "real")

    assert "compiled programs are not kept" in refused(cache)
    cache.put(OTHER_KEY, b"another")
    assert not (tmp_path / "real" / OTHER_KEY).exists()


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_to_is_not_read(cache, mode):
    cache.put(KEY, b"compiled")
    (cache.folder / KEY).chmod(mode)

    assert refused(cache) == (
        f"{cache.folder / KEY} is not used: others may write to it; compiling again"
    )


@needs_root
def test_a_file_of_somebody_else_is_not_read(cache):
    cache.put(KEY, b"compiled")
    os.chown(cache.folder / KEY, NOBODY, 0)

    assert f"it belongs to user {NOBODY}" in refused(cache)


def test_a_file_that_is_elsewhere_by_a_link_is_not_read_and_is_replaced(cache, tmp_path):
    cache.put(KEY, b"compiled")
    (cache.folder / KEY).rename(tmp_path / "elsewhere")
    (cache.folder / KEY).symlink_to(tmp_path / "elsewhere")

    assert "is not used" in refused(cache)
    cache.put(KEY, b"compiled again")
    assert Cache(cache.folder).get(KEY) == b"compiled again"
    assert b"compiled again" not in (tmp_path / "elsewhere").read_bytes()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=lambda make: make.__name__)
def test_what_is_no_file_is_not_read_and_nobody_waits_for_it(cache, make):
    cache.put(OTHER_KEY, b"another")
    make(cache.folder / KEY)

    assert "is not used" in refused(cache)
    cache.put(KEY, b"compiled")
    assert len(cache.warnings) == 1


def test_a_file_that_has_changed_anywhere_or_ends_early_is_not_read(cache):
    cache.put(KEY, b"compiled")
    whole = (cache.folder / KEY).read_bytes()
    changed = [
        whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(len(whole))
    ]
    cut = [whole[:end] for end in range(len(whole))]

    for content in [*changed, *cut, whole + b"\0"]:
        (cache.folder / KEY).write_bytes(content)
        reader = Cache(cache.folder)

        assert reader.get(KEY) is None
        assert warning_of(reader).endswith("its checksum is wrong; compiling again")


def test_a_writer_that_is_killed_leaves_an_old_file_or_a_new_one(cache):
    cache.put(KEY, b"x" * 1_000_000)
    killed_while_writing = 0
    for number in range(1, 40):
        parent, writer = os.getpid(), os.fork()
        if not writer:
            while os.getppid() == parent:
                cache.put(KEY, bytes([number]) * 1_000_000)
            os._exit(0)
        time.sleep(0.001 * number)
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        found = cache.get(KEY)
        killed_while_writing = len(list(cache.folder.iterdir())) - 1

        assert found is not None
        assert len({*found}) == 1
        assert len(found) == 1_000_000
    assert cache.warnings == []
    assert killed_while_writing


def test_what_a_killed_writer_had_begun_goes_in_its_turn(cache):
    cache.put(KEY, b"compiled")
    begun = cache.folder / f"{OTHER_KEY}.{'ab' * 8}"
    begun.write_bytes(b"half")
    os.utime(begun, (1, 1))
    foreign = cache.folder / "README"
    foreign.write_text("not ours")
    os.utime(foreign, (1, 1))
    for number in range(MOST_FILES):
        cache.put(f"{number:064x}", b"more")

    assert not begun.exists()
    assert foreign.exists()


def test_what_was_used_last_stays(cache):
    for number in range(MOST_FILES):
        cache.put(f"{number:064x}", b"content")
        os.utime(cache.folder / f"{number:064x}", (number, number))
    cache.get(f"{0:064x}")
    cache.put(KEY, b"one more")

    left = {path.name for path in cache.folder.iterdir()}
    assert len(left) == MOST_FILES
    assert {f"{0:064x}", KEY} <= left
    assert f"{1:064x}" not in left


def test_those_who_write_at_once_do_not_hinder_each_other(tmp_path):
    caches = [Cache(tmp_path / "cache") for _ in range(4)]
    wrong = []

    def work(cache: Cache, number: int) -> None:
        for round_ in range(60):
            cache.put(KEY, bytes([number]) * 10_000)
            cache.put(f"{number}{round_:063x}", b"makes others go")
            found = cache.get(KEY)
            if found is None or len({*found}) != 1 or len(found) != 10_000:
                wrong.append(found)

    threads = [
        threading.Thread(target=work, args=(cache, number)) for number, cache in enumerate(caches)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert [cache.warnings for cache in caches] == [[]] * 4
    assert len(list(caches[0].folder.iterdir())) <= MOST_FILES + len(caches)


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A small file system of its own."""
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(["mode=0700", *options]), "none", folder],
        check=True,
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@needs_root
@pytest.mark.kernel
def test_on_a_full_disk_one_line_says_so_and_nothing_half_is_left(tmp_path):
    with mounted(tmp_path / "small", "size=64k") as folder:
        cache = Cache(folder)
        cache.put(OTHER_KEY, b"fits")
        for _ in range(3):
            cache.put(KEY, bytes(200_000))

        assert warning_of(cache) == (
            f"compiled programs are not kept in {folder}: No space left on device"
        )
        assert [path.name for path in folder.iterdir()] == [OTHER_KEY]
        assert cache.get(OTHER_KEY) == b"fits"


@needs_root
@pytest.mark.kernel
def test_a_disk_that_cannot_be_written_to_serves_what_it_has(tmp_path):
    with mounted(tmp_path / "fixed") as folder:
        Cache(folder).put(KEY, b"compiled")
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        cache = Cache(folder)

        assert cache.get(KEY) == b"compiled"
        assert cache.warnings == []
        cache.put(OTHER_KEY, b"another")
        assert "Read-only file system" in warning_of(cache)
        missing = Cache(folder / "not there")
        missing.put(KEY, b"compiled")
        assert "Read-only file system" in warning_of(missing)
