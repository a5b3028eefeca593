# SPDX-License-Identifier: Apache-2.0
"""Compile the kernel programs once more: `python -m agent.recompile PID`, what on its input.

PID is the agent's.

What comes out is a report with their instructions, which the agent loads with the maps of those
that run; nothing is attached, and nothing pinned but maps that were not there.

bcc would open a pinned map by its number, for which the kernel wants CAP_SYS_ADMIN.  So it is
given a folder aside, where it makes stand-ins of the smallest size.
"""

import mmap
import sys
from collections.abc import Iterable
from dataclasses import replace

from agent.kernel import code_of, flow_source, images, load_source, recompiled_source
from agent.loader import answer
from agent.plan import Pins, Recompilation, Report, remove_all

# Those are made for captures, each compilation its own or the first one for all.
_OF_CAPTURES = ("capture_books", "capture_scratch")


def main() -> int:
    return answer(lambda asked: _recompile(Recompilation.from_json(asked)))


def _recompile(what: Recompilation) -> Report:
    source = recompiled_source(what.plan)
    folder = what.plan.pins.folder / "aside"
    aside = replace(what.plan, pin_path=str(folder), ring_bytes=mmap.PAGESIZE)
    definitions = (*what.definitions, "-DSTAND_INS=1")
    remove_all(folder)
    aside.pins.make()
    try:
        loaded = load_source(source, aside, suffix=what.suffix, definitions=definitions)
        _move(_OF_CAPTURES, aside.pins, what.plan.pins)
    finally:
        remove_all(folder)
    return Report(
        codes=(code_of(flow_source(what.plan), what.plan),),
        images={name: image.to_text() for name, image in images(source, loaded).items()},
        tails=source.tails,
    )


def _move(names: Iterable[str], aside: Pins, pins: Pins) -> None:
    """Pin maps where they belong, unless one is there."""
    for name in names:
        if aside.map(name).exists() and not pins.map(name).exists():
            aside.map(name).rename(pins.map(name))


if __name__ == "__main__":
    sys.exit(main())
