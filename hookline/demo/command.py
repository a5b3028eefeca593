# SPDX-License-Identifier: Apache-2.0
"""`hookline demo`: build three hosts, let them talk, watch them, and say what was found."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hookline.arguments import seconds_in
from hookline.demo.findings import FINDINGS
from hookline.demo.hosts import LAPTOP, STORE, SWITCH, WEB, HostError, hosts, inside
from hookline.settings import RUNNING_FILE

_DEFAULT_SECONDS = 60.0
_START_SECONDS = 60.0
_STOP_SECONDS = 90.0
_QUIET_SECONDS = 1.0


class DemoError(Exception):
    """The demo cannot go on; the text is one line for a human."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument(
        "--for",
        dest="seconds",
        type=seconds_in,
        default=_DEFAULT_SECONDS,
        metavar="TIME",
        help="how long to watch, for example 30s (default: 1m)",
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the history there (default: delete it)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; the exit code.  Nothing of it is left but what --keep says."""
    if os.geteuid() != 0:
        return _fail("making namespaces and loading eBPF programs needs root; run it with sudo")
    try:
        with ExitStack() as stack:
            data = arguments.keep or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="hookline-demo-"))
            )
            stack.enter_context(hosts())
            _watch(data, arguments.seconds)
            _tell(data)
    except (DemoError, HostError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def _fail(reason: str) -> int:
    sys.stderr.write(f"hookline demo: {reason}\n")
    return 1


def _watch(data: Path, seconds: float) -> None:
    """Run `hookline up` on the switch's ports while the hosts talk."""
    _say(f"three hosts: {WEB.ipv4} web, {STORE.ipv4} store, {LAPTOP.ipv4} laptop")
    hookline = [sys.executable, "-m", "hookline"]
    command = [*hookline, "up", "--interface=to-*", "--dns=yes", f"--data={data}"]
    with (
        _running(SWITCH, command) as up,
        _running(WEB.namespace, _role("serve-web")),
        _running(STORE.namespace, _role("serve-store")),
    ):
        _await_start(up, data)
        _say(f"watching them for {seconds:g} s")
        _talk(seconds)
        # Connections close; then no packet is under way when the last counters are read.
        time.sleep(_QUIET_SECONDS)
        up.terminate()
        if up.wait(_STOP_SECONDS) != 0:
            raise DemoError("hookline up failed; see above")


def _await_start(up: subprocess.Popen[bytes], data: Path) -> None:
    """Wait until it says that everything has started."""
    deadline = time.monotonic() + _START_SECONDS
    while not _is_of(up.pid, data / RUNNING_FILE):
        if up.poll() is not None:
            raise DemoError("hookline up failed; see above")
        if time.monotonic() > deadline:
            raise DemoError(f"hookline up has not started after {_START_SECONDS:g} s")
        time.sleep(0.1)


def _is_of(pid: int, running: Path) -> bool:
    # A history that was kept may hold the file of an earlier run that was killed.
    return running.is_file() and json.loads(running.read_text())["pid"] == pid


def _talk(seconds: float) -> None:
    """Let the clients work until the time is over; the scan comes in the middle."""
    during = str(seconds)
    with (
        _running(LAPTOP.namespace, _role("browse", WEB.ipv4, STORE.ipv4, during)),
        _running(WEB.namespace, _role("copy", STORE.ipv6, during)),
        _running(LAPTOP.namespace, _role("ping", STORE.ipv4, STORE.ipv6, during)),
    ):
        time.sleep(seconds / 2)
        with _running(LAPTOP.namespace, _role("scan", WEB.ipv4)):
            time.sleep(seconds / 2)


def _role(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hookline.demo.traffic", *arguments]


@contextmanager
def _running(namespace: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a namespace, ended with the context, or with us."""
    lifeline = ["setpriv", "--pdeathsig", "TERM", "--"]
    with subprocess.Popen(inside(namespace, [*lifeline, *command])) as process:
        try:
            yield process
        finally:
            process.terminate()


def _tell(data: Path) -> None:
    for finding in FINDINGS:
        _say(f"\n{finding.question}\n")
        print(finding.sql + "\n", flush=True)
        query = [sys.executable, "-m", "hookline", "query", f"--data={data}", finding.sql]
        if subprocess.run(query, check=False).returncode != 0:
            raise DemoError("the history did not answer; see above")


def _say(text: str) -> None:
    print(text, flush=True)
