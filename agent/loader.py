# SPDX-License-Identifier: Apache-2.0
"""Load the kernel programs and leave: `python -m agent.loader PID`, a plan on its standard input.

PID is the agent's.

Reads a plan, loads what was compiled before or compiles it, pins, prints a report and exits.  Pins
keep all of it alive, and the memory that bcc and LLVM took goes back with this process.  Maps that
are pinned already, by an agent that is no more, are used as they are.  Attaching is for the agent,
which does it whenever an interface appears.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from agent import filesystems, libbpf
from agent.kernel import Loaded, images, load_source
from agent.plan import BPFFS, LoadError, Pins, Plan, Report
from agent.socket_hooks import SOCKETS, attach_sockets
from agent.sources import code_of, flow_source

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def main() -> int:
    return answer(lambda asked: _load(Plan.from_json(asked)))


def answer(task: Callable[[str], Report]) -> int:
    """Do for the agent what it asks on standard input; the exit code."""
    if not _lives_with(int(sys.argv[1])):
        return 1
    try:
        report = task(sys.stdin.read())
    except LoadError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(report.to_json())
    return 0


def _lives_with(agent_pid: int) -> bool:
    """Have this process killed when the agent is; False where that has happened already.

    The next agent has a loader of its own, and the two must not meet.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == agent_pid


def _load(plan: Plan) -> Report:
    _ensure_bpffs(BPFFS)
    # Where it is not new, an agent that is no more counts there, and goes on whatever we do.
    is_new = not plan.pins.folder.is_dir()
    plan.pins.make()
    try:
        source = flow_source(plan)
        loaded = load_source(source, plan)
        _pin(plan.pins, source.programs, loaded)
    except BaseException:
        if is_new:
            plan.pins.remove()
        raise
    warnings = [*loaded.warnings]
    return Report(
        codes=(code_of(source, plan), code_of(SOCKETS, plan)),
        has_sockets=_observe_sockets(plan, warnings),
        warnings=tuple(dict.fromkeys(warnings)),
        images={name: image.to_text() for name, image in images(source, loaded).items()},
        tails=source.tails,
    )


def _observe_sockets(plan: Plan, warnings: list[str]) -> bool:
    """Whether sockets are observed; flows are without them too."""
    if plan.cgroup:
        try:
            loaded = load_source(SOCKETS, plan)
            warnings += loaded.warnings
            attach_sockets(loaded, Path(plan.cgroup), plan.pins)
        except LoadError as error:
            warnings.append(f"sockets are not observed, which needs Linux v5.13: {error}")
        else:
            return True
    _forget_sockets(plan.pins)
    return False


def _forget_sockets(pins: Pins) -> None:
    for path in [*map(pins.cgroup_link, SOCKETS.programs), *map(pins.map, SOCKETS.maps)]:
        path.unlink(missing_ok=True)


def _pin(pins: Pins, names: Iterable[str], loaded: Loaded) -> None:
    for name in names:
        # Those of an agent that is no more live on in its links, until ours take their places.
        pins.program(name).unlink(missing_ok=True)
        if name in loaded.programs:
            libbpf.pin(loaded.programs[name], pins.program(name))


def _ensure_bpffs(path: Path) -> None:
    """Mount the bpf file system where pins go, unless it is mounted."""
    try:
        kind = filesystems.kind_of(path)
    except OSError:
        raise LoadError(f"{path} is not there; mount sysfs, or run on a kernel with eBPF") from None
    if kind == filesystems.BPF:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(path), b"bpf", 0, b"mode=0700") != 0:
        reason = os.strerror(ctypes.get_errno())
        raise LoadError(f"cannot mount the bpf file system at {path}: {reason}")


if __name__ == "__main__":
    sys.exit(main())
