# SPDX-License-Identifier: Apache-2.0
"""Programs that were compiled before are, once loaded, those that the compiler loads.

Each variant is compiled twice, with different seeds and into different folders, and then loaded
with the first seeds from what the second has left.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from agent import kernel, libbpf, newmaps
from agent.cache import Cache
from agent.compiled import key_of
from agent.compiler import Module, compiled
from agent.images import Image
from agent.plan import LoadError, draw_seeds, remove_all
from agent.socket_hooks import SOCKETS
from agent.sources import FLOW, options
from agent.variants import Compiled, Variant
from schemas.flow import FLOW_SLOT
from schemas.ledger import HOOK_TOTALS
from tests.bpf.books import COUNTERS
from tests.bpf.frames import Frames
from tests.bpf.programs import Programs, a_plan, loaded
from tests.lab.cgroups import a_cgroup
from tests.lab.compilers import keeping_in, without_compiler

pytestmark = pytest.mark.kernel
# bcc tells its callers to pass bytes, and itself does not.
in_this_process = pytest.mark.filterwarnings("ignore:not a bytes object")

# The plainest one is compared with what bcc itself makes of it.
VARIANTS = {
    "perf, outer": {"buffer": "perf", "tunnels": "outer"},
    "ring, both, names, samples": {
        "tunnels": "both",
        "dns_ports": (53,),
        "tls": True,
        "sample_one_in": 1,
        "sample_first": True,
    },
}
_SEED = 20261126
ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Loads:
    """One variant, as the compiler has loaded it, and again without."""

    compiled: Programs
    again: Programs
    folders: tuple[Path, Path]


@pytest.fixture(scope="module", params=VARIANTS)
def loads(request, lab, tmp_path_factory) -> Iterator[Loads]:
    seeds = draw_seeds()
    folders = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    with ExitStack() as stack:
        cgroup = stack.enter_context(a_cgroup("compiled"))
        options = {**VARIANTS[request.param], "cgroup": str(cgroup.directory)}
        with keeping_in(folders[0]):
            compiled = stack.enter_context(loaded(**options, seeds=seeds))
        with keeping_in(folders[1]):
            with loaded(**options):
                pass
            with without_compiler(tmp_path_factory.mktemp("none")):
                again = stack.enter_context(loaded(**options, seeds=seeds))
        yield Loads(compiled, again, folders)


def pins_of(programs: Programs, *kinds: str) -> dict[str, Path]:
    pins = programs.plan.pins
    folders = [pins.root / kind if kind == "links" else pins.folder / kind for kind in kinds]
    return {path.name: path for folder in folders for path in folder.iterdir()}


def what_the_kernel_says(path: Path, *names: str) -> list[str]:
    """Lines of those names about what is pinned there."""
    with libbpf.opened(path) as fd:
        return said_of(fd, *names)


def said_of(fd: int, *names: str) -> list[str]:
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return [line for line in lines if line.partition(":")[0] in names]


def shape_of(map_fd: int) -> list[int]:
    """Type, sizes and flags."""
    kind, _, *sizes = libbpf.information(map_fd)[:6]
    return [kind, *sizes]


def test_two_compilations_leave_the_same_bytes_whatever_their_seeds(loads):
    # A seed that the compiler had put into another form would be there, and differ.
    left = [{path.name: path.read_bytes() for path in it.iterdir()} for it in loads.folders]

    assert len(left[0]) == 1 + loads.compiled.report.has_sockets
    assert left[0] == left[1]


def test_instructions_are_those_that_the_compiler_loads(loads):
    compiled = pins_of(loads.compiled, "programs", "links")
    again = pins_of(loads.again, "programs", "links")

    assert loads.compiled.report.has_sockets == ({*SOCKETS.programs} <= {*compiled})
    assert compiled.keys() == again.keys()
    for name, path in compiled.items():
        # The kernel's tag is a hash of all instructions but for the descriptors of maps.
        wanted = what_the_kernel_says(path, "prog_type", "prog_tag")
        assert wanted
        assert what_the_kernel_says(again[name], "prog_type", "prog_tag") == wanted, name


def test_maps_are_those_that_the_compiler_makes(loads):
    compiled, again = (pins_of(one, "maps") for one in (loads.compiled, loads.again))

    assert compiled.keys() == again.keys()
    for name, path in compiled.items():
        found = []
        for one in (path, again[name]):
            with libbpf.opened(one) as fd:
                kind, _, *rest = libbpf.information(fd)[:10]  # up to the name
                found.append([kind, *rest])
        assert found[0] == found[1], name


def test_the_same_frames_make_the_same_rows_in_the_same_places(loads):
    frames = list(islice(Frames(_SEED, has_link=True, pool=300).endless(_SEED), 600))
    for programs in (loads.compiled, loads.again):
        for frame in frames:
            if len(frame) >= 54:
                programs.run(frame)
    compiled, again = loads.compiled.maps, loads.again.maps
    names = [field.name for field in FLOW_SLOT.fields if field.name]
    timeless = [name for name in names if "jiffies" not in name]

    assert len(loads.compiled.live_slots()) > 100
    for name in timeless:
        assert np.array_equal(compiled.slots[name], again.slots[name]), name
    assert np.array_equal(compiled.contexts, again.contexts)
    for name in COUNTERS:
        assert loads.compiled.total(name) == loads.again.total(name)
    for buffer in ("evictions", "packets"):
        sizes = {len(getattr(one, buffer).drain()) for one in (loads.compiled, loads.again)}
        assert len(sizes) == 1, buffer


def test_other_namespaces_and_jumbo_frames_have_theirs(loads):
    compiled = Compiled.reported(loads.again.report, loads.again.plan.pins)
    variant = Variant(compiled, netns="elsewhere")
    try:
        assert {*variant.programs} == {"hook_ingress", "hook_egress"}
        assert variant.load_xdp() > 0
        assert variant.load_jumbo() > 0
    finally:
        variant.close()


def test_each_load_has_seeds_of_its_own(lab):
    frames = list(islice(Frames(_SEED, has_link=True, pool=300).endless(_SEED), 300))
    with loaded() as one, loaded() as other:
        for programs in (one, other):
            for frame in frames:
                if len(frame) >= 54:
                    programs.run(frame)
        places = [np.flatnonzero(it.maps.slots["packets"]) // 4 for it in (one, other)]

    assert one.report.warnings == other.report.warnings == ()
    assert len(places[0]) == len(places[1]) > 50
    # Of the same flows, hardly any is in the same set.
    assert len(np.intersect1d(*places)) < len(places[0]) // 10


def test_without_a_compiler_only_what_is_known_can_be_loaded(lab, tmp_path):
    with loaded():
        pass
    with without_compiler(tmp_path):
        with loaded() as programs:
            assert programs.report.warnings == ()
        with pytest.raises(LoadError, match="bcc is missing"), loaded(hook_points=32):
            pass


def spoil(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b" ")


def refuse_to_be_verified(path: Path) -> None:
    """Make it an entry that is whole, with a program that reads a register nobody has written."""
    cache, key = Cache(path.parent), path.name
    content = json.loads(cache.get(key))
    programs = content["programs"]
    image = Image.from_text(programs["hook_xdp"])
    code = bytes.fromhex("bf40000000000000") + image.code[8:]
    programs["hook_xdp"] = replace(image, code=code).to_text()
    cache.put(key, json.dumps(content).encode())


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (spoil, "its checksum is wrong"),
        (refuse_to_be_verified, "the kernel refuses it (bpf_prog_load: Permission denied)"),
    ],
)
def test_what_is_of_no_use_is_compiled_again_with_one_line_and_replaced(
    lab, tmp_path, harm, reason
):
    with loaded():
        pass
    shutil.copytree(Cache().folder, tmp_path / "cache")
    with keeping_in(tmp_path / "cache") as folder:
        file = folder / key_of(FLOW, options(FLOW, a_plan()))
        whole = file.read_bytes()
        harm(file)
        with loaded() as programs:
            said = programs.report.warnings
            programs.run(bytes(64))
            assert len(programs.live_slots()) == 1
        with loaded() as programs:
            assert programs.report.warnings == ()

    assert said == (f"{file} is not used: {reason}; compiling again",)
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_trusted_is_said_once_and_nothing_else(lab, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o777)
    (tmp_path / "cache").chmod(0o777)
    # Two sources are looked for there.
    with (
        keeping_in(tmp_path / "cache") as folder,
        a_cgroup("folder") as cgroup,
        loaded(cgroup=str(cgroup.directory)) as programs,
    ):
        assert programs.report.has_sockets
        (said,) = programs.report.warnings

    assert "others may write to it" in said
    assert list(folder.iterdir()) == []


def close(found: kernel.Loaded) -> None:
    for fd in [*found.maps.values(), *found.programs.values()]:
        os.close(fd)


@pytest.fixture
def known_sockets(lab):
    """A plan whose socket programs were compiled before."""
    with a_cgroup("known") as cgroup, loaded(cgroup=str(cgroup.directory)):
        pass
    plan = a_plan()
    plan.pins.make()
    yield plan
    remove_all(plan.pins.root)


@in_this_process
def test_maps_that_are_pinned_are_opened_and_those_of_other_code_made(known_sockets):
    plan = known_sockets
    loads = [
        kernel.load_source(SOCKETS, one) for one in (plan, plan, replace(plan, socket_ticks=77))
    ]
    numbers = [{name: libbpf.information(fd)[1] for name, fd in one.maps.items()} for one in loads]
    for one in loads:
        close(one)

    assert numbers[0] == numbers[1]
    is_shared = {name: numbers[0][name] == numbers[2][name] for name in numbers[0]}
    assert is_shared == {"sockets": True, "socket_totals": True, "socket_states": False}


def as_loaded(made: Module, name: str, chunks_fd: int) -> bytes:
    """The instructions of bcc, with what the loader does to them.

    Maps of one value, which bcc knows by descriptor, by address; and for the chunks of rules, of
    which bcc makes a small one only, those that the loader has made.
    """
    instructions = np.frombuffer(made.code(name), "u1,u1,<i2,<i4").copy()
    is_map = (instructions["f0"] == 0x18) & (instructions["f1"] >> 4 == 1)
    values = [made.maps[one] for one in ("agent_clock", "rule_control")]
    instructions["f1"][is_map & np.isin(instructions["f3"], values)] += 1 << 4
    instructions["f3"][is_map & (instructions["f3"] == made.maps["rule_chunks"])] = chunks_fd
    return instructions.tobytes()


@in_this_process
def test_maps_and_instructions_are_those_that_bcc_itself_makes(lab):
    with loaded() as programs:
        aside = programs.plan.pins.folder / "aside"
        aside.mkdir()
        told = options(FLOW, programs.plan)
        made = compiled(FLOW, told, aside=aside, seeds=programs.plan.seeds)
        chunks_fd = libbpf.open_pinned(programs.plan.pins.map("rule_chunks"))
        for name, kind in FLOW.programs.items():
            fd = libbpf.load_program(kind, as_loaded(made, name, chunks_fd), name=name)
            with libbpf.opened(programs.plan.pins.program(name)) as ours:
                assert said_of(fd, "prog_tag") == said_of(ours, "prog_tag") != [], name
            os.close(fd)
        os.close(chunks_fd)
        for name in FLOW.maps:
            with libbpf.opened(programs.plan.pins.map(name)) as ours:
                assert shape_of(made.maps[name]) == shape_of(ours), name


# Past the loader, which takes away what is pinned.
_LOAD = (
    "import sys; from agent import kernel, plan, sources;"
    " kernel.load_source(sources.FLOW, plan.Plan.from_json(sys.stdin.read()))"
)


@pytest.mark.parametrize("is_known", [True, False], ids=["kept", "compiled"])
def test_a_pinned_map_that_is_another_is_told(lab, tmp_path, is_known):
    plan = a_plan()
    plan.pins.make()
    with ExitStack() as stack:
        stack.callback(remove_all, plan.pins.root)
        fd = newmaps.create_array("totals", value_bytes=8, count=3)
        libbpf.pin(fd, plan.pins.map("totals"))
        os.close(fd)
        with loaded():
            pass
        if not is_known:
            stack.enter_context(keeping_in(tmp_path / "empty"))
        done = subprocess.run(
            [sys.executable, "-c", _LOAD],
            input=plan.to_json(),
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )

    assert done.stderr.splitlines()[-1] == (
        f"agent.plan.LoadError: {plan.pins.map('totals')} is another map: type, key and value"
        f" bytes, entries and flags are [2, 4, 8, 3, 1024], not"
        f" [2, 4, {HOOK_TOTALS.size_bytes}, {4 * plan.cpus}, 1024]; hookline agent --detach"
        " removes it"
    )
