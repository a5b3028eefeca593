# SPDX-License-Identifier: Apache-2.0
"""Load the kernel programs: as they were compiled before, or else compiled now.

What was compiled once is kept (agent/cache.py).  When the same is asked for again, it is loaded as
it is, without bcc and LLVM.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from agent.cache import Cache
from agent.compiled import Compilation, DamagedError, files_now, key_of
from agent.compiler import compiled, compiler_files
from agent.images import Image
from agent.plan import LoadError, Plan, remove_all
from agent.rules.chunks import CHUNKS, make_chunks
from agent.rules.tries import TRIES, make_tries
from agent.sources import Source, code_of, options, seeds_used


@dataclass(frozen=True, slots=True)
class Loaded:
    """Descriptors of everything loaded, which this process holds, and programs as instructions."""

    maps: Mapping[str, int]
    programs: Mapping[str, int]
    images: Mapping[str, Image]
    warnings: tuple[str, ...] = ()


def load_source(
    source: Source, plan: Plan, *, definitions: Sequence[str] = (), has_own_tails: bool = False
) -> Loaded:
    """Load one source; maps that are pinned already are shared, others are made and pinned.

    All of it is compiled, but programs for XDP are loaded only where the plan has them at once.
    The folder of the plan's pins must be there.  *definitions* are further options of the compiler.
    With *has_own_tails* the programs go on in others than those that run.

    Raises:
        LoadError: the compiler or the verifier refuses, or a map that is pinned is another.
    """
    told = [*options(source, plan), *definitions]
    cache, key = Cache(), key_of(source, told)
    kept = _kept(cache, key, source)
    if kept is not None:
        try:
            return _load(kept, source, plan, cache, has_own_tails=has_own_tails)
        except OSError as error:
            cache.refuse(key, f"the kernel refuses it ({error.strerror})")
    made = _compile(source, plan, told)
    try:
        loaded = _load(made, source, plan, cache, has_own_tails=has_own_tails)
    except OSError as error:
        raise LoadError(str(error.strerror)) from None
    # Somebody may have edited a file while it was compiled.
    if key_of(source, told) == key:
        _keep(cache, key, source, made)
    return replace(loaded, warnings=tuple(cache.warnings))


def images(source: Source, loaded: Loaded) -> dict[str, Image]:
    """What others load again, as instructions."""
    return {name: loaded.images[name] for name in source.reloaded}


def _kept(cache: Cache, key: str, source: Source) -> Compilation | None:
    """What was compiled before; None where there is nothing, or nothing of use."""
    content = cache.get(key)
    if content is None:
        return None
    try:
        kept = Compilation.from_bytes(content, key, source)
    except DamagedError as error:
        cache.refuse(key, str(error))
        return None
    return None if kept.is_stale else kept


def _load(
    made: Compilation, source: Source, plan: Plan, cache: Cache, *, has_own_tails: bool
) -> Loaded:
    if has_own_tails:
        made = made.with_own(source.tails)
    # What its elements are like is nothing that the compiler tells of a map.
    if CHUNKS in source.maps:
        make_chunks(plan.pins)
    if TRIES in source.maps:
        make_tries(plan.pins)
    wanted = source if plan.xdp_at_once else source.without_xdp
    maps, programs = made.load(wanted, plan.pins, code_of(source, plan), plan.seeds)
    seeded = {name: image.seeded(plan.seeds) for name, image in made.programs.items()}
    return Loaded(maps, programs, seeded, tuple(cache.warnings))


def _compile(source: Source, plan: Plan, told: Sequence[str]) -> Compilation:
    """Programs without the seeds, and what the maps are."""
    with _aside(plan.pins.folder / "aside") as aside:
        module = compiled(source, told, aside=aside, seeds=plan.seeds)
        names = {fd: name for name, fd in module.maps.items()}
        programs = {
            name: Image.of(
                kind, module.code(name), names, seeds=plan.seeds, attach_type=attach_type
            )
            for name, (kind, attach_type) in source.types.items()
        }
        return Compilation(programs, module.shapes())


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """An empty folder for the compiler's pins; a compiler that was killed may have left one."""
    remove_all(folder)
    folder.mkdir()
    try:
        yield folder
    finally:
        remove_all(folder)


def _keep(cache: Cache, key: str, source: Source, made: Compilation) -> None:
    """Put it away, unless a seed may be in it in a form in which nobody finds it."""
    found = set().union(*(image.seeds for image in made.programs.values()))
    if missing := seeds_used(source) - found:
        cache.not_kept(f"seed {min(missing)} is not found in the instructions")
        return
    try:
        files = files_now(compiler_files())
    except OSError as error:
        cache.not_kept(f"the compiler is being replaced: {error}")
        return
    cache.put(key, replace(made, compiler=files).to_bytes(key))
