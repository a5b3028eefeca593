# SPDX-License-Identifier: Apache-2.0
"""Compile the kernel programs once more: `python -m agent.recompile PID`, what on its input.

PID is the agent's.

They share the maps of those that run.  What comes out is a report with their instructions, which
the agent loads; nothing is attached, and nothing pinned but maps that were not there.
"""

import sys

from agent.kernel import images, load_source
from agent.loader import answer
from agent.plan import Recompilation, Report
from agent.sources import code_of, recompiled_source


def main() -> int:
    return answer(lambda asked: _recompile(Recompilation.from_json(asked)))


def _recompile(what: Recompilation) -> Report:
    source = recompiled_source(what.plan)
    # Here the verifier sees them; whoever loads the instructions has such tails of his own.
    loaded = load_source(source, what.plan, definitions=what.definitions, has_own_tails=True)
    return Report(
        codes=(code_of(source, what.plan),),
        warnings=loaded.warnings,
        images={name: image.to_text() for name, image in images(source, loaded).items()},
        tails=source.tails,
    )


if __name__ == "__main__":
    sys.exit(main())
