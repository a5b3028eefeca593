# SPDX-License-Identifier: Apache-2.0
"""What is kept of a compilation: all of it but the seeds, and nothing that was made of a stranger's.

No kernel is asked here; tests/bpf/test_compiled.py loads what was kept.
"""

import copy
import json
import random
import struct
from contextlib import suppress
from dataclasses import replace

import pytest

from agent.compiled import Compilation, DamagedError, files_now, key_of
from agent.images import Image
from agent.kernel import _keep
from agent.mapshapes import ALL, MapShape
from agent.plan import SEEDS, draw_seeds
from agent.socket_hooks import SOCKETS
from agent.sources import FLOW, Source, options
from tests.agent.test_cache import KEY, OTHER_KEY
from tests.bpf.programs import a_plan

SOURCE = Source("flow.bpf.c", {"hook_xdp": "XDP"}, ("totals",), {})
TOTALS = MapShape("totals", 2, 4, 192, 8, 1024, ALL)
DRAWN = draw_seeds()


def load_64_bits(value: int, *, pseudo: int = 0) -> bytes:
    """The pair of instructions that loads *value* into the first register."""
    low, high = struct.unpack("<ii", struct.pack("<Q", value))
    return struct.pack("<BBhi", 0x18, pseudo << 4 | 1, 0, low) + struct.pack("<BBhi", 0, 0, 0, high)


EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)
MAP_FD = 3


def a_program(*seeds: int) -> bytes:
    """Instructions that load a map, and each of *seeds*."""
    return load_64_bits(MAP_FD, pseudo=1) + b"".join(map(load_64_bits, seeds)) + EXIT


def an_image(code: bytes, *, kind: str = "XDP", seeds: tuple[int, ...] = DRAWN) -> Image:
    return Image.of(kind, code, {MAP_FD: "totals"}, seeds=seeds)


def a_compilation() -> Compilation:
    programs = {name: an_image(a_program(*DRAWN)) for name in SOURCE.types}
    return Compilation(programs, (TOTALS,), files_now([__file__]))


def test_it_comes_back_as_it_was():
    made = a_compilation()

    assert Compilation.from_bytes(made.to_bytes(KEY), KEY, SOURCE) == made


def test_seeds_are_taken_out_and_others_put_in():
    image = an_image(a_program(DRAWN[4], 0x1234567890, DRAWN[0], DRAWN[4]))
    others = draw_seeds()

    assert image.seeds == {0, 4}
    assert image.seeded(DRAWN).code == a_program(
        DRAWN[4], 0x1234567890, DRAWN[0], DRAWN[4]
    ).replace(load_64_bits(MAP_FD, pseudo=1), load_64_bits(0, pseudo=1))
    assert load_64_bits(others[4]) in image.seeded(others).code
    assert not any(load_64_bits(seed)[4:8] in image.code for seed in DRAWN)


def test_nothing_of_a_seed_is_in_what_is_kept():
    bare = Compilation({name: an_image(a_program()) for name in SOURCE.types}, (TOTALS,))
    kept = a_compilation()

    # Other seeds make the same bytes.
    others = draw_seeds()
    programs = {name: an_image(a_program(*others), seeds=others) for name in kept.programs}
    assert Compilation(programs, (TOTALS,), kept.compiler).to_bytes(KEY) == kept.to_bytes(KEY)
    assert bare.to_bytes(KEY) != kept.to_bytes(KEY)


def test_a_program_without_its_seeds_is_one_that_the_kernel_does_not_know():
    codes = an_image(a_program(DRAWN[2])).code

    assert struct.pack("<BBhi", 0x18, 15 << 4 | 1, 0, 2) in codes


class Shelf:
    """Takes note of what would be kept."""

    def __init__(self) -> None:
        self.put_keys: list[str] = []
        self.reasons: list[str] = []

    def put(self, key: str, content: bytes) -> None:
        self.put_keys.append(key)

    def not_kept(self, reason: str) -> None:
        self.reasons.append(reason)


@pytest.mark.parametrize("missing", range(SEEDS))
def test_programs_in_which_a_seed_is_not_found_are_not_kept(missing):
    shelf = Shelf()
    # What a compiler might make of it: the same number in another form.
    folded = [
        int.from_bytes(seed.to_bytes(8, "little"), "big") if number == missing else seed
        for number, seed in enumerate(DRAWN)
    ]
    programs = {name: an_image(a_program(*folded)) for name in SOURCE.types}

    _keep(shelf, KEY, SOURCE, Compilation(programs, (TOTALS,)))

    assert shelf.put_keys == []
    assert shelf.reasons == [f"seed {missing} is not found in the instructions"]


def test_another_compiler_makes_it_stale(tmp_path):
    library = tmp_path / "libbcc.so.0"
    library.write_bytes(b"version 1")
    made = Compilation({}, (), files_now([str(library)]))
    assert not made.is_stale

    library.write_bytes(b"version 2, longer")
    assert made.is_stale
    library.unlink()
    assert made.is_stale


def test_the_key_is_another_for_another_source_or_configuration():
    plain = options(FLOW, a_plan())

    assert len({key_of(FLOW, plain), key_of(SOURCE, plain), key_of(FLOW, [*plain, "-DA=1"])}) == 3


def test_the_key_is_the_same_for_all_pins_and_seeds():
    one, other = a_plan(), a_plan()

    assert one.pin_path != other.pin_path
    assert one.seeds != other.seeds
    assert key_of(FLOW, options(FLOW, one)) == key_of(FLOW, options(FLOW, other))


def test_what_only_sockets_are_told_has_no_flows_compiled_again():
    plan = a_plan()
    other = replace(plan, socket_ticks=plan.socket_ticks + 1)

    assert options(FLOW, plan) == options(FLOW, other)
    assert options(SOCKETS, plan) != options(SOCKETS, other)


def test_the_key_is_another_once_a_header_changes(tmp_path, monkeypatch):
    (tmp_path / "flow.bpf.c").write_text('#include "seed.h"\n')
    (tmp_path / "headers").mkdir()
    for module in ("agent.sources", "agent.compiled"):
        monkeypatch.setattr(f"{module}.SOURCE_PATH", tmp_path)
    keys = set()
    for name in ("seed.h", "headers/kconfig.h"):
        for text in ("", "#define A 1\n", "#define A 2\n"):
            (tmp_path / name).write_text(text)
            keys.add(key_of(FLOW, []))
    (tmp_path / "flow.bpf.c").write_text('#include "seed.h"\n\n')
    keys.add(key_of(FLOW, []))

    assert len(keys) == 7


def test_what_was_put_under_another_key_is_refused():
    with pytest.raises(DamagedError, match="another key"):
        Compilation.from_bytes(a_compilation().to_bytes(KEY), OTHER_KEY, SOURCE)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("programs", "hook_xdp", 0), "SCHED_CLS", "programs are others"),
        (("programs", "hook_xdp", 0), "KPROBE", "no type of a program"),
        (("programs", "hook_xdp", 2), ["socket_totals"], "maps are others"),
        (("programs", "hook_xdp", 2), [], "loads what there is none of"),
        (("programs", "more"), ["XDP", "", [], 0], "cut off"),
        (("maps", 0, 0), "../../etc/passwd", "no name of a map"),
        (("maps", 0, 2), -1, "no sizes"),
        (("maps", 0, 4), 1 << 32, "no sizes"),
        (("maps", 0, 4), True, "no sizes"),
        (("maps", 0, 6), "everybody", "nobody is called"),
        (("maps",), [], "maps are others"),
    ],
)
def test_an_entry_that_is_wrong_although_it_is_whole_is_refused(path, value, complaint):
    content = json.loads(a_compilation().to_bytes(KEY))
    *way, last = path
    place = content
    for step in way:
        place = place[step]
    place[last] = value

    with pytest.raises(DamagedError, match=complaint):
        Compilation.from_bytes(json.dumps(content).encode(), KEY, SOURCE)


@pytest.mark.parametrize(
    "code",
    [b"short", EXIT + EXIT[:4], load_64_bits(1 << 31, pseudo=1), load_64_bits(SEEDS, pseudo=15)]
    + [load_64_bits(0, pseudo=pseudo)[:8] for pseudo in (1, 15)],
)
def test_instructions_that_cannot_be_are_refused(code):
    with pytest.raises(ValueError, match=r"instruction|buffer size"):
        Image("XDP", code, ("totals",)).check()


def test_a_program_that_unpacks_to_a_flood_is_refused():
    bomb = Image("XDP", bytes(1 << 26), ())

    with pytest.raises(ValueError, match="longer than any"):
        Image.from_text(bomb.to_text())


def test_whatever_is_in_an_entry_it_is_refused_or_read_and_nothing_else_happens():
    draw = random.Random(20261126)
    whole = json.loads(a_compilation().to_bytes(KEY))
    strange = [None, -1, 1 << 70, 1.5, True, "", "\0", "x" * 99, [], [[]], {}, {"a": []}]
    read = 0
    for _ in range(3000):
        content = copy.deepcopy(whole)
        place = content
        while isinstance(place, dict | list) and place:
            step = draw.choice([*place] if isinstance(place, dict) else range(len(place)))
            if draw.random() < 0.4 or not isinstance(place[step], dict | list):
                place[step] = draw.choice(strange)
                break
            place = place[step]
        with suppress(DamagedError):
            read += not Compilation.from_bytes(json.dumps(content).encode(), KEY, SOURCE).is_stale
    nested = b"[" * 100_000

    with pytest.raises(DamagedError):
        Compilation.from_bytes(nested, KEY, SOURCE)
    for _ in range(300):
        with pytest.raises(DamagedError):
            Compilation.from_bytes(draw.randbytes(draw.randrange(200)), KEY, SOURCE)
    assert read < 300
