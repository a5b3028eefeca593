# SPDX-License-Identifier: Apache-2.0
"""What the agent asks of the loader, and what the loader answers.

The loader is a process of its own, so that LLVM and bcc leave with it.  A plan goes to its
standard input as JSON, a report comes back on its standard output.
"""

import dataclasses
import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from schemas.fingerprint import fingerprint

BPFFS = Path("/sys/fs/bpf")
_ROOT = BPFFS / "hookline"
_LINKS = "links"
# Of 16 bytes; a quarter full at most, so that every interface finds a place.
INTERFACE_SLOTS = 1 << 13
# Point 0 books what met no known interface.
FIRST_POINT = 1
MAX_POINTS = 4096
MAX_CONTEXTS = 1 << 18
MAX_CONTEXTS_PER_CPU = 1 << 14
# Of what an agent keeps for its successor beside the maps of the programs.
_SUCCESSION_VERSION = 2
# What counts as jiffies while a capture is replayed: as fine as most captures are.
REPLAY_TICK_NS = 1000
SEEDS = 11  # as bpf/seed.h numbers them


def draw_seeds() -> tuple[int, ...]:
    """A new hash key, so that nobody outside can aim flows at one set of the cache."""
    return tuple(secrets.randbits(64) | 1 for _ in range(SEEDS))


class LoadError(Exception):
    """The kernel programs cannot be loaded or attached; the text says why and what helps."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the maps of one agent."""

    buffer: str  # ring, perf
    cpus: int
    slots_per_cpu: int
    hook_points: int
    contexts_per_cpu: int
    ring_bytes: int
    interface_slots: int

    @property
    def slots(self) -> int:
        return self.cpus * self.slots_per_cpu


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the loader needs to know."""

    pin_path: str
    buffer: str  # ring, perf
    cpus: int
    slots_per_cpu: int
    hook_points: int
    ring_bytes: int
    sample_one_in: int
    sample_first: bool
    tunnels: str  # outer, inner, both
    vxlan_ports: tuple[int, ...]
    cgroup: str = ""  # whose sockets to observe; none where empty
    socket_ticks: int = 1  # jiffies between two reports of one connection
    dns_ports: tuple[int, ...] = ()  # none: DNS is compiled out
    tls: bool = False
    # Programs that are compiled later share the cache, so they must share its hash key.
    seeds: tuple[int, ...] = field(default_factory=draw_seeds)
    is_replay: bool = False  # packets come from a capture, and so does the time
    xdp_at_once: bool = True  # else where the first interface needs them: see agent/variants.py

    @property
    def contexts_per_cpu(self) -> int:
        """How many surroundings of packets each CPU can tell apart; a lane has 18 bits for all."""
        return min(MAX_CONTEXTS_PER_CPU, MAX_CONTEXTS >> (self.cpus - 1).bit_length())

    @property
    def pins(self) -> "Pins":
        return Pins(Path(self.pin_path), self.layout)

    @property
    def sizes(self) -> "Sizes":
        return Sizes(
            buffer=self.buffer,
            cpus=self.cpus,
            slots_per_cpu=self.slots_per_cpu,
            hook_points=self.hook_points,
            contexts_per_cpu=self.contexts_per_cpu,
            ring_bytes=self.ring_bytes,
            interface_slots=INTERFACE_SLOTS,
        )

    @property
    def layout(self) -> str:
        """Names everything that maps of one agent must have in common with those of another."""
        sizes = dataclasses.asdict(self.sizes)
        return fingerprint({"succession": _SUCCESSION_VERSION, **sizes})

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        content = json.loads(text)
        content["vxlan_ports"] = tuple(content["vxlan_ports"])
        content["dns_ports"] = tuple(content["dns_ports"])
        content["seeds"] = tuple(content["seeds"])
        return cls(**content)


@dataclass(frozen=True, slots=True)
class Recompilation:
    """The same programs once more, with further definitions, beside those of the plan."""

    plan: Plan
    definitions: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        content = json.loads(text)
        plan = Plan.from_json(json.dumps(content["plan"]))
        return cls(plan, tuple(content["definitions"]))


@dataclass(frozen=True, slots=True)
class Report:
    """What the loader did."""

    # Ends of the names of maps that only the same source understands; that of the hooks first.
    codes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    has_sockets: bool = False
    # By program: what agent.images makes of it.
    images: Mapping[str, Any] = field(default_factory=dict)
    # By map: the programs in which others go on, in its order.
    tails: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        content = json.loads(text)
        content["codes"], content["warnings"] = tuple(content["codes"]), tuple(content["warnings"])
        return cls(**content)


@dataclass(frozen=True, slots=True)
class Pins:
    """Where in the bpf file system one agent's objects live.

    Maps and programs are in a folder that is named by their layout; links are beside it, since
    they pass from the programs of one layout to those of another.
    """

    root: Path
    layout: str

    @property
    def owner(self) -> str:
        """The agent's name."""
        return self.root.name

    @property
    def folder(self) -> Path:
        return self.root / self.layout

    def map(self, name: str) -> Path:
        return self.folder / "maps" / name

    def private_map(self, name: str, code: str) -> Path:
        """Of a map that only programs of that source understand."""
        return self.map(f"{name}~{code}")

    def program(self, name: str) -> Path:
        return self.folder / "programs" / name

    def link(self, ifindex: int, direction: str, *, netns: str = "") -> Path:
        """Of an interface in this network namespace, or in one with a number of its own."""
        where = f"{netns}-{ifindex}" if netns else str(ifindex)
        return self.root / _LINKS / f"{direction}-{where}"

    def cgroup_link(self, program: str) -> Path:
        return self.root / _LINKS / program

    def links(self) -> list[Path]:
        return links_in(self.root)

    def make(self) -> None:
        for folder in (self.root / _LINKS, self.folder / "maps", self.folder / "programs"):
            # Another agent that ends may remove the folder that we share under our hands.
            with suppress(FileNotFoundError):
                folder.mkdir(parents=True, exist_ok=True)
            folder.mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Unpin the maps and programs of this layout."""
        _remove_tree(self.folder)

    def others(self) -> list[Path]:
        """The folders of other layouts."""
        if not self.root.is_dir():
            return []
        return sorted(one for one in self.root.iterdir() if one.name not in (_LINKS, self.layout))


def root_of(name: str) -> Path:
    """Where the agent of that name keeps its objects."""
    return _ROOT / name


def links_in(root: Path) -> list[Path]:
    """Every link that is pinned there."""
    return sorted((root / _LINKS).glob("*"))


def remove_all(root: Path) -> None:
    """Unpin everything of one agent; links still attached are detached by that."""
    _remove_tree(root)
    if root.parent == _ROOT:
        # The last agent takes the folder along; while others have pins it stays.
        with suppress(OSError):
            _ROOT.rmdir()


def _remove_tree(root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    if root.is_dir():
        root.rmdir()
