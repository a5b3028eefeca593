# SPDX-License-Identifier: Apache-2.0
"""Have the kernel programs loaded by a process of its own, and hold its result."""

import asyncio
import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from agent.plan import LoadError, Plan, Recompilation, Report
from service.secrets import without_options

LOCKS = Path("/run/hookline")


async def load(plan: Plan) -> Report:
    """Run the loader.

    Raises:
        LoadError: it could not compile, load or attach; nothing stays attached then.
    """
    return Report.from_json(await _run("agent.loader", plan.to_json()))


async def recompile(what: Recompilation) -> Report:
    """Have the programs compiled once more; the report has them as instructions.

    Raises:
        LoadError: the compiler or the verifier refuses.
    """
    return Report.from_json(await _run("agent.recompile", what.to_json()))


async def _run(module: str, order: str) -> str:
    """What a loader process says; *order* goes to its standard input."""
    loader = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        str(os.getpid()),
        env=without_options(os.environ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaints = await loader.communicate(order.encode())
    if loader.returncode != 0:
        lines = complaints.decode(errors="replace").strip().splitlines()
        raise LoadError(lines[-1] if lines else f"the loader ended with {loader.returncode}")
    return output.decode()


@contextlib.contextmanager
def sole_agent(name: str) -> Iterator[None]:
    """Hold the name of this agent, so that a second one cannot take its pins.

    Raises:
        LoadError: another agent has the name.
    """
    LOCKS.mkdir(parents=True, exist_ok=True)
    path = LOCKS / f"{name}.lock"
    while (fd := _locked(path)) is None:
        pass
    if fd < 0:
        raise LoadError(f"an agent named {name!r} runs already; stop it, or choose another --name")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock, -1 where another does, None where its file was removed."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return -1
    # Its last holder may have removed the file between our open and our lock.
    if os.fstat(fd).st_nlink == 0:
        os.close(fd)
        return None
    return fd
