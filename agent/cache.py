# SPDX-License-Identifier: Apache-2.0
"""A folder of what was compiled, as files by key.

What comes out of it goes into the kernel.  So a folder or file that somebody else could have
written is not touched, and a file that is not whole is as good as none.  It is a convenience: where
it cannot be used, one line says so, and everything works without it.
"""

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER = Path("/var/cache/hookline")
MOST_FILES = 64
_MOST_BYTES = 1 << 22  # many times what the largest source comes to
_DIGEST_BYTES = hashlib.sha256().digest_size
_OURS = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]+)?")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Cache:
    """One folder; several processes may use it at once."""

    def __init__(self, folder: Path | None = None) -> None:
        """By default the folder that systemd says, or else our own."""
        self.folder = folder or Path(os.environ.get("CACHE_DIRECTORY") or FOLDER)
        self.warnings: list[str] = []

    def get(self, key: str) -> bytes | None:
        """What was put under *key*; None where nothing is that can be used."""
        with self._opened() as folder:
            if folder is None:
                return None
            try:
                return self._read(folder, key)
            except FileNotFoundError:
                return None
            except (OSError, _RefusedError) as error:
                self.refuse(key, _reason(error))
                return None

    def put(self, key: str, content: bytes) -> None:
        """Put *content* under *key*, in place of what was there."""
        try:
            # In its mode from the start, so that nobody gets in before.
            self.folder.mkdir(0o700, exist_ok=True)
        except OSError as error:
            self.not_kept(str(error.strerror))
            return
        with self._opened() as folder:
            if folder is None:
                return
            try:
                _write(folder, key, hashlib.sha256(content).digest() + content)
                _remove_eldest(folder)
            except OSError as error:
                self.not_kept(str(error.strerror))

    def refuse(self, key: str, reason: str) -> None:
        """Say that what is under *key* is of no use."""
        self._warn(f"{self.folder / key} is not used: {reason}; compiling again")

    def not_kept(self, reason: str) -> None:
        """Say why nothing is put here."""
        self._warn(f"compiled programs are not kept in {self.folder}: {reason}")

    @contextmanager
    def _opened(self) -> Iterator[int | None]:
        """A descriptor of the folder; None where there is none, or none that can be trusted."""
        try:
            fd = os.open(self.folder, _READ | os.O_DIRECTORY)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            # A symbolic link, or no folder at all.
            self._distrust(str(error.strerror))
            yield None
            return
        try:
            reason = _who_may_write(os.fstat(fd))
            if reason:
                self._distrust(reason)
            yield None if reason else fd
        finally:
            os.close(fd)

    def _read(self, folder: int, key: str) -> bytes:
        with os.fdopen(os.open(key, _READ, dir_fd=folder), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _RefusedError("it is no file")
            if reason := _who_may_write(status):
                raise _RefusedError(reason)
            whole = file.read(_MOST_BYTES)
            digest, content = whole[:_DIGEST_BYTES], whole[_DIGEST_BYTES:]
            if hashlib.sha256(content).digest() != digest:
                raise _RefusedError("its checksum is wrong")
            # Those that are used stay; on a read-only disk all do.
            with suppress(OSError):
                os.utime(file.fileno())
            return content

    def _distrust(self, reason: str) -> None:
        self.not_kept(f"{reason}; make it a folder that only root may write to, or remove it")

    def _warn(self, text: str) -> None:
        # What is said first is why; what follows comes of it.
        if not self.warnings:
            self.warnings.append(text)


class _RefusedError(Exception):
    """A file that is not one of ours."""


def _reason(error: OSError | _RefusedError) -> str:
    return str(error.strerror if isinstance(error, OSError) else error)


def _who_may_write(status: os.stat_result) -> str:
    """Who but us could have written what is there; "" where nobody."""
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others may write to it"
    return ""


def _write(folder: int, key: str, content: bytes) -> None:
    """Whole or not at all, whatever happens meanwhile."""
    name = f"{key}.{secrets.token_hex(8)}"
    fd = os.open(name, _WRITE, 0o600, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        os.rename(name, key, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        os.unlink(name, dir_fd=folder)
        raise


def _remove_eldest(folder: int) -> None:
    """Leave what was used last; what a killed process had begun to write goes the same way."""
    ages = {}
    for entry in os.scandir(folder):
        # Another process may be removing it too.
        with suppress(FileNotFoundError):
            if _OURS.fullmatch(entry.name):
                ages[entry.name] = entry.stat(follow_symlinks=False).st_mtime_ns
    for name in sorted(ages, key=ages.__getitem__, reverse=True)[MOST_FILES:]:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
