# SPDX-License-Identifier: Apache-2.0
"""What is compiled: the files of bpf/, the programs and maps in them, and the options.

Configuration is compiled in, so what is off costs nothing.
"""

import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from agent.plan import INTERFACE_SLOTS, REPLAY_TICK_NS, Plan
from agent.variants import HOOKS, JUMBO

SOURCE_PATH = Path(__file__).resolve().parent.parent / "bpf"
# XDP programs that ask for a frame's length, which is another question for jumbo frames.
_MEASURING = ("hook_xdp", "names_xdp")
# As bpf/maps.bpf.h numbers them.
TUNNELS = {"outer": 0, "inner": 1, "both": 2}
_CODE_DIGITS = 8
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SEED = re.compile(r"\bSEED\((\d+)\)")
_WORD = re.compile(r"\b[A-Z][A-Z_]+\b")
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

    @property
    def types(self) -> dict[str, tuple[str, int]]:
        """The type of every program that is compiled, and what it is attached to."""
        return {
            name: (kind, self.attach_types.get(name, 0))
            for name, kind in {**self.programs, **self.jumbo_programs}.items()
        }

    @property
    def without_xdp(self) -> "Source":
        """What is loaded before an interface needs XDP; all maps are there for the rest."""
        programs = {name: kind for name, kind in self.programs.items() if kind != "XDP"}
        tails = {name: its for name, its in self.tails.items() if programs.keys() >= {*its}}
        others = (name for name in self.tails if name not in tails)
        return replace(self, programs=programs, maps=(*self.maps, *others), tails=tails)

    @property
    def jumbo_programs(self) -> dict[str, str]:
        """Those for jumbo frames, which are compiled, and loaded by whoever needs them."""
        return {
            f"{name}{JUMBO}": kind for name, kind in self.programs.items() if name in _MEASURING
        }

    @property
    def reloaded(self) -> list[str]:
        """What is loaded again for others: hooks, the programs they go on in, those for jumbos."""
        tails = [name for its in self.tails.values() for name in its]
        wanted = [name for name in (*HOOKS, *tails) if name in self.programs]
        return [*wanted, *self.jumbo_programs]


# Those that agents write and read (agent/rules); no other source has any of them.
RULE_MAPS = (
    "rule_control",
    "rule_sets",
    "rule_masks",
    "rule_entries",
    "rule_ranks",
    "rule_books",
    "rule_buckets",
    "rule_sources",
    "rule_chunks",
    "rule_tries",
)
# Whose limits are kept apart, where every source has its own; the longest unseen make room.
LIMITED_SOURCES = 1 << 15

FLOW = Source(
    "flow.bpf.c",
    {
        "hook_xdp": "XDP",
        "hook_ingress": "SCHED_CLS",
        "hook_egress": "SCHED_CLS",
        "unusual_xdp": "XDP",
        "unusual_tc": "SCHED_CLS",
        "rules_xdp": "XDP",
        "rules_tc": "SCHED_CLS",
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
        *RULE_MAPS,
    ),
    {"xdp_tails": ("unusual_xdp", "rules_xdp"), "tc_tails": ("unusual_tc", "rules_tc")},
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


def seeds_used(source: Source) -> set[int]:
    """The numbers of the seeds that are in its programs."""
    return {int(number) for number in _SEED.findall(source_text(source.file))}


def options(source: Source, plan: Plan) -> list[str]:
    """What the compiler is told of the configuration; the instructions are made by it.

    That is what the source mentions: what is of others only need not have it compiled again.
    """
    mentioned = set(_WORD.findall(source_text(source.file)))
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
        "LIMITED_SOURCES": LIMITED_SOURCES,
        "REPLAY": int(plan.is_replay),
        "REPLAY_TICK_NS": REPLAY_TICK_NS,
    }
    told = {
        "IS_VXLAN_PORT": f"(port_be)=({_is_one_of(plan.vxlan_ports)})",
        "IS_DNS_PORT": f"(port_be)=({_is_one_of(plan.dns_ports)})",
        **{name: f"={value}" for name, value in numbers.items()},
    }
    return [f"-D{name}{rest}" for name, rest in told.items() if name in mentioned]


def particulars(pins: Path, seeds: Sequence[int]) -> list[str]:
    """What it is told besides: where maps are pinned as they come into being, and the hash key."""
    return [
        f"-I{SOURCE_PATH}",
        f'-DPINS="{pins}"',
        *(f'-DSEED_{number}="{seed:#x}"' for number, seed in enumerate(seeds)),
    ]


def code_of(source: Source, plan: Plan) -> str:
    """A short name for what programs of this source and plan take the entries of their maps for."""
    text = "\n".join([source_text(source.file), *options(source, plan)])
    return sha256(text.encode()).hexdigest()[:_CODE_DIGITS]


def _is_one_of(ports: tuple[int, ...]) -> str:
    """A condition in C on port_be."""
    return "||".join(f"(port_be)=={socket.htons(port)}" for port in ports) or "0"
