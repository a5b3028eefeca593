# SPDX-License-Identifier: Apache-2.0
"""Compile and load the kernel programs with bcc: the one module that imports it.

Configuration is compiled in, so what is off costs nothing.
"""

import ctypes
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from agent import libbpf
from agent.images import Image
from agent.plan import INTERFACE_SLOTS, REPLAY_TICK_NS, LoadError, Plan
from agent.variants import HOOKS, JUMBO

SOURCE_PATH = Path(__file__).resolve().parent.parent / "bpf"
# XDP programs that ask for a frame's length, which is another question for jumbo frames.
_MEASURING = ("hook_xdp", "names_xdp")
# As bpf/maps.bpf.h numbers them.
TUNNELS = {"outer": 0, "inner": 1, "both": 2}
_CODE_DIGITS = 8
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_INCLUDE = re.compile(r'^#include "(\w+\.bpf\.h)"\n', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Source:
    """What is compiled in one go: a file of bpf/, its programs with their types, and its maps.

    *tails* are the programs in which others go on, by map and in its order.
    """

    file: str
    programs: Mapping[str, str]
    maps: tuple[str, ...]
    tails: Mapping[str, tuple[str, ...]]
    # By program, where its type alone does not tell the verifier what it may do.
    attach_types: Mapping[str, int] = field(default_factory=dict)


FLOW = Source(
    "flow.bpf.c",
    {
        "hook_xdp": "XDP",
        "hook_ingress": "SCHED_CLS",
        "hook_egress": "SCHED_CLS",
        "unusual_xdp": "XDP",
        "unusual_tc": "SCHED_CLS",
        "hook_clock": "SCHED_CLS",
    },
    (
        "flow_slots",
        "flow_origins",
        "contexts",
        "totals",
        "interfaces",
        "agent_clock",
        "evictions",
        "packets",
    ),
    {"xdp_tails": ("unusual_xdp",), "tc_tails": ("unusual_tc",)},
)


def flow_source(plan: Plan) -> Source:
    """The hooks, and where names are wanted the programs that copy those out."""
    source = _with_names(plan)
    return _for_replay(source) if plan.is_replay else source


def _with_names(plan: Plan) -> Source:
    wanted = {"dns": bool(plan.dns_ports), "tls": plan.tls}
    maps = tuple(name for name, is_wanted in wanted.items() if is_wanted)
    if not maps:
        return FLOW
    return Source(
        FLOW.file,
        {**FLOW.programs, "names_xdp": "XDP", "names_tc": "SCHED_CLS"},
        (*FLOW.maps, *maps),
        {
            "xdp_tails": (*FLOW.tails["xdp_tails"], "names_xdp"),
            "tc_tails": (*FLOW.tails["tc_tails"], "names_tc"),
        },
    )


def recompiled_source(plan: Plan) -> Source:
    """The same hooks once more; the maps that they share are there already."""
    source = flow_source(plan)
    programs = {name: kind for name, kind in source.programs.items() if name != "hook_clock"}
    return replace(source, programs=programs, maps=())


def _for_replay(source: Source) -> Source:
    # Packets of a capture all come in at one program.
    unused = {"hook_egress", *(name for name, kind in source.programs.items() if kind == "XDP")}
    return Source(
        source.file,
        {name: kind for name, kind in source.programs.items() if name not in unused},
        source.maps,
        {tails: names for tails, names in source.tails.items() if unused.isdisjoint(names)},
    )


@dataclass(frozen=True, slots=True)
class Loaded:
    """Descriptors of everything loaded; they live as long as *module*."""

    maps: dict[str, int]
    programs: dict[str, int]
    module: Any


def load(plan: Plan) -> Loaded:
    """Compile and load what sees packets.

    The maps come into being pinned, so the folder of the plan's pins must be there.

    Raises:
        LoadError: the compiler or the verifier refuses.
    """
    return load_source(flow_source(plan), plan)


def load_source(
    source: Source, plan: Plan, *, suffix: str = "", definitions: Sequence[str] = ()
) -> Loaded:
    """Compile and load one source; maps that are pinned already are shared, others are made.

    *suffix* ends the names of maps that are not to be shared, *definitions* are further options of
    the compiler.

    Raises:
        LoadError: the compiler or the verifier refuses.
    """
    # bcc reads it at import and at compile time, and else looks for the kernel's headers.
    os.environ["BCC_KERNEL_SOURCE"] = str(SOURCE_PATH / "headers")
    try:
        from bcc import BPF  # noqa: PLC0415 - only the loader process should map LLVM
    except ImportError as error:
        raise LoadError(f"bcc is missing ({error}); install python3-bpfcc") from None
    with _quiet_stderr() as complaints:
        try:
            module = BPF(
                text=source_text(source.file).encode(),
                cflags=[*_definitions(source, plan, suffix), *definitions],
            )
            programs = {
                name: module.load_func(
                    name, getattr(BPF, kind), attach_type=source.attach_types.get(name, -1)
                ).fd
                for name, kind in source.programs.items()
            }
        except Exception as error:  # noqa: BLE001 - bcc raises nothing narrower
            raise LoadError(_last_line(complaints) or str(error)) from None
    maps = {name: module[name].map_fd for name in source.maps}
    for tails, names in source.tails.items():
        for index, name in enumerate(names):
            fd = programs[name].to_bytes(4, sys.byteorder)
            libbpf.update_element(module[tails].map_fd, index, fd)
    return Loaded(maps, programs, module)


def images(source: Source, loaded: Loaded) -> dict[str, Image]:
    """The hooks of a source, and the programs they go on in, as instructions.

    Those for jumbo frames are compiled only, and loaded by whoever needs them.
    """
    maps = {fd: name for name, fd in _map_fds(loaded.module).items()}
    tails = [name for its in source.tails.values() for name in its]
    wanted = (*HOOKS, *tails)
    names = {name: source.programs[name] for name in wanted if name in source.programs}
    names |= {f"{name}{JUMBO}": kind for name, kind in names.items() if name in _MEASURING}
    return {
        name: Image.of(kind, loaded.module.dump_func(name), maps) for name, kind in names.items()
    }


def _map_fds(module: Any) -> dict[str, int]:
    """Every map of a module by name; bcc itself lists only those that somebody asked for."""
    from bcc.libbcc import lib  # noqa: PLC0415 - as above

    lib.bpf_table_name.restype = ctypes.c_char_p
    return {
        lib.bpf_table_name(module.module, number).decode(): lib.bpf_table_fd_id(
            module.module, number
        )
        for number in range(lib.bpf_num_tables(module.module))
    }


def source_text(file: str) -> str:
    """A file of bpf/ with every *.bpf.h in place of the line that first includes it.

    bcc translates map accesses in its main file only.
    """
    seen: set[str] = set()

    def content(match: re.Match[str]) -> str:
        if match[1] in seen:
            return ""
        seen.add(match[1])
        text = (SOURCE_PATH / match[1]).read_text().replace("#pragma once\n", "")
        return _INCLUDE.sub(content, text)

    return _INCLUDE.sub(content, (SOURCE_PATH / file).read_text())


def code_of(source: Source, plan: Plan) -> str:
    """A short name for the source and its options, but for what differs with every start."""
    text = "\n".join([source_text(source.file), *_options(plan)])
    return sha256(text.encode()).hexdigest()[:_CODE_DIGITS]


def _definitions(source: Source, plan: Plan, suffix: str) -> list[str]:
    seeds = [f'-DSEED_{number}="{seed:#x}"' for number, seed in enumerate(plan.seeds)]
    return [
        f"-I{SOURCE_PATH}",
        f'-DPINS="{plan.pins.map("")}"',
        f'-DCODE="{code_of(source, plan)}"',
        f'-DVARIANT="{suffix}"',
        *_options(plan),
        *seeds,
    ]


def _options(plan: Plan) -> list[str]:
    numbers = {
        "CPUS": plan.cpus,
        "SLOTS_PER_CPU": plan.slots_per_cpu,
        "HOOK_POINTS": plan.hook_points,
        "INTERFACE_SLOTS": INTERFACE_SLOTS,
        "RING_PAGES": plan.ring_bytes // _PAGE_BYTES,
        "SAMPLE_ONE_IN": plan.sample_one_in,
        "SAMPLE_FIRST": int(plan.sample_first),
        "PERF_BUFFER": int(plan.buffer == "perf"),
        "CONTEXTS_PER_CPU": plan.contexts_per_cpu,
        "TUNNELS": TUNNELS[plan.tunnels],
        "UPDATE_TICKS": plan.socket_ticks,
        "DNS": int(bool(plan.dns_ports)),
        "TLS": int(plan.tls),
        "REPLAY": int(plan.is_replay),
        "REPLAY_TICK_NS": REPLAY_TICK_NS,
    }
    return [
        f"-DIS_VXLAN_PORT(port_be)=({_is_one_of(plan.vxlan_ports)})",
        f"-DIS_DNS_PORT(port_be)=({_is_one_of(plan.dns_ports)})",
        *(f"-D{name}={value}" for name, value in numbers.items()),
    ]


def _is_one_of(ports: tuple[int, ...]) -> str:
    """A condition in C on port_be."""
    return "||".join(f"(port_be)=={socket.htons(port)}" for port in ports) or "0"


@contextmanager
def _quiet_stderr() -> Iterator[Path]:
    """Send what bcc and LLVM write to file descriptor 2 into memory, and say where.

    No file: LLVM may end the process, and in a container the next one has the same number.
    """
    saved = os.dup(2)
    log = os.memfd_create("compile.log")
    os.dup2(log, 2)
    try:
        yield Path(f"/proc/self/fd/{log}")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(log)


def _last_line(log: Path) -> str:
    """The verifier's or compiler's last telling line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    telling = [line for line in lines if line and not line.startswith("processed ")]
    return telling[-1] if telling else ""
