# SPDX-License-Identifier: Apache-2.0
"""Compile the kernel programs once more: `python -m agent.recompile PID`, what on its input.

PID is the agent's.

They share the maps of those that run.  What comes out is a report with their instructions, which
the agent loads; nothing is attached, and nothing pinned but maps that were not there.
"""

import sys

from agent.kernel import code_of, flow_source, images, load_source, recompiled_source
from agent.loader import answer
from agent.plan import Recompilation, Report


def main() -> int:
    return answer(lambda asked: _recompile(Recompilation.from_json(asked)))


def _recompile(what: Recompilation) -> Report:
    source = recompiled_source(what.plan)
    loaded = load_source(source, what.plan, suffix=what.suffix, definitions=what.definitions)
    code = code_of(flow_source(what.plan), what.plan)
    # Who loads the instructions makes such maps of his own.
    for name in source.tails:
        what.plan.pins.private_map(name, code + what.suffix).unlink()
    return Report(
        codes=(code,),
        images={name: image.to_text() for name, image in images(source, loaded).items()},
        tails=source.tails,
    )


if __name__ == "__main__":
    sys.exit(main())
