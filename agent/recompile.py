# SPDX-License-Identifier: Apache-2.0
"""Compile the kernel programs once more: `python -m agent.recompile PID`, what on its input.

PID is the agent's.

They share the maps of those that run.  What comes out is a report with their instructions, which
the agent loads; nothing is attached, and nothing pinned but maps that were not there.
"""

import sys

from agent.kernel import images, load_source, recompiled_source
from agent.loader import lives_with
from agent.plan import LoadError, Recompilation, Report


def main() -> int:
    if not lives_with(int(sys.argv[1])):
        return 1
    try:
        report = _recompile(Recompilation.from_json(sys.stdin.read()))
    except LoadError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(report.to_json())
    return 0


def _recompile(what: Recompilation) -> Report:
    source = recompiled_source(what.plan)
    loaded = load_source(
        source, what.plan, "ring", suffix=what.suffix, definitions=what.definitions
    )
    # Who loads the instructions makes such maps of his own.
    for name in source.tails:
        what.plan.pins.map(f"{name}{what.suffix}").unlink()
    return Report(
        buffer=loaded.buffer,
        warnings=(),
        images={name: image.to_text() for name, image in images(source, loaded).items()},
        tails=source.tails,
    )


if __name__ == "__main__":
    sys.exit(main())
