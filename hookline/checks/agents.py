# SPDX-License-Identifier: Apache-2.0
"""The agents of this node: which run, where they count, and what they may still do."""

from collections.abc import Callable, Iterable
from pathlib import Path

from agent.capabilities import (
    TO_ATTACH,
    TO_ENTER,
    TO_SEE_PROCESSES,
    capability_set,
    names_of,
    status_field,
)
from agent.plan import BPFFS
from agent.programs import LOCKS
from hookline.checks.result import Result, fail, ok, warn
from hookline.remote import RemoteError, running_agents, state_of
from service.messages import Message

PROC = Path("/proc")
PINS = BPFFS / "hookline"
_MAY_KEEP = {*TO_ATTACH, TO_ENTER, *TO_SEE_PROCESSES}
LOCK_TABLE = Path("/proc/locks")
_SHOWN = 20
_REFUSED = 2  # the code of an order that an agent does not understand


def agents(
    names: Callable[[], list[str]] | None = None, ask: Callable[[str], Message] = state_of
) -> list[Result]:
    """Everything about every agent that runs here."""
    try:
        running = (names or running_agents)()
    except RemoteError as error:
        return [warn("agents", "cannot be looked at", str(error))]
    if not running:
        return [
            warn(
                "agents",
                "none runs on this node, so nothing is counted",
                "start one: systemctl start hookline-agent, or hookline up",
            )
        ]
    return [result for name in running for result in _about(name, ask)]


def _about(name: str, ask: Callable[[str], Message]) -> Iterable[Result]:
    try:
        state = ask(name)
    except RemoteError as error:
        if error.code == _REFUSED:
            yield warn("agent", f"{name} is of another version than this command", "restart it")
        else:
            yield fail(
                "agent", f"{name} does not answer: {error}", "look at its log, and restart it"
            )
        return
    interfaces = state["interfaces"]
    yield _counts(name, int(state["pid"]), len(interfaces), int(state["waiting_bytes"]))
    for one in interfaces[:_SHOWN]:
        yield _interface(one)
    if len(interfaces) > _SHOWN:
        yield ok("interface", f"and {len(interfaces) - _SHOWN} more")
    yield privileges(int(state["pid"]))


def _counts(name: str, pid: int, interfaces: int, waiting_bytes: int) -> Result:
    if not interfaces:
        return warn(
            "agent",
            f"{name} runs as process {pid}, and observes no interface",
            "give --interface one that is up",
        )
    waiting = f", {waiting_bytes} bytes wait for Kafka" if waiting_bytes else ""
    observes = f"observes {interfaces} interface{'s' if interfaces > 1 else ''}"
    return ok("agent", f"{name} runs as process {pid} and {observes}{waiting}")


def _interface(one: Message) -> Result:
    text = f"{one['interface']}: in at {one['ingress']}, out at {one['egress']}; {one['why']}"
    if program := one["foreign_xdp"]:
        return warn(
            "interface",
            f"{text}; XDP program {program} of somebody else's may drop packets before",
            "what it drops is not counted; look: bpftool prog show id " + str(program),
        )
    return ok("interface", text)


def privileges(pid: int, proc: Path = PROC) -> Result:
    """What every thread of an agent may still do."""
    check = "privileges"
    try:
        threads = [(task / "status").read_text() for task in (proc / str(pid) / "task").iterdir()]
    except OSError:
        return warn(
            check,
            f"process {pid} cannot be looked at",
            "run the doctor where the agent runs: in its container, or outside",
        )
    kept = {name for text in threads for name in names_of(capability_set("CapEff", text))}
    if kept - _MAY_KEEP:
        some = ", ".join(sorted(kept - _MAY_KEEP)[:3])
        return warn(
            check,
            f"{len(threads)} threads may do more than an agent needs: {some}",
            "restart it, with this version",
        )
    if any(status_field("NoNewPrivs", text) != "1" for text in threads):
        return warn(check, "programs that it starts may gain rights", "restart it")
    every = f"{len(threads)} threads" if len(threads) > 1 else "its only thread"
    return ok(check, f"{', '.join(sorted(kept))} and no new ones, in {every}")


def leftovers(pins: Path = PINS, names: Callable[[], list[str]] | None = None) -> list[Result]:
    """Programs of agents that are no more, which count on for the next ones."""
    try:
        left = sorted({path.name for path in pins.iterdir()} - {*(names or _held_names)()})
    except OSError:  # no pins, or not for us to see
        return []
    return [
        warn(
            "leftovers",
            f"agent {name} does not run; its programs count on, and nobody reads them",
            f"start it again, or remove them: hookline agent --detach --name {name}",
        )
        for name in left
    ]


def _held_names() -> list[str]:
    """The agents that run, or are about to: they hold a lock from their first moment to their last.

    To try a lock would be to take it, and an agent that starts just then would be refused.
    """
    held = {line.split()[5].rpartition(":")[2] for line in LOCK_TABLE.read_text().splitlines()}
    return [path.stem for path in LOCKS.glob("*.lock") if str(path.stat().st_ino) in held]


def foreign_xdp(
    programs_of: Callable[[], dict[str, tuple[int, ...]]] | None = None,
    ours: Callable[[], set[int]] | None = None,
) -> Result:
    """XDP programs of others, on interfaces that we observe or not."""
    found = {
        name: sorted(set(ids) - (ours or _our_programs)())
        for name, ids in (programs_of or _xdp_programs)().items()
    }
    foreign = {name: ids for name, ids in found.items() if ids}
    if not foreign:
        return ok("foreign XDP", "none")
    told = ", ".join(f"{name} (id {ids[0]})" for name, ids in sorted(foreign.items()))
    return warn(
        "foreign XDP",
        f"others have XDP programs on {told}; what those drop is not seen",
        "nothing has to be done; agents observe such an interface at tc",
    )


def _xdp_programs() -> dict[str, tuple[int, ...]]:
    from agent.links import LinkSocket  # noqa: PLC0415 - only here is the kernel asked

    with LinkSocket() as links:
        return {one.full_name: one.xdp_programs for one in links.all() if one.xdp_programs}


def _our_programs() -> set[int]:
    """The programs behind the links that agents have pinned."""
    from agent import libbpf  # noqa: PLC0415 - the library may be missing

    found = set()
    for path in PINS.glob("*/links/*"):
        try:
            with libbpf.opened(path) as link:
                found.add(libbpf.information(link)[2])
        except OSError:  # no right, or gone meanwhile
            continue
    return found
