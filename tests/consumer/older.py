# SPDX-License-Identifier: Apache-2.0
"""A consumer of yesterday: it has no name yet for the newest tunnel, and is whole otherwise.

python -m tests.consumer.older [as python -m consumer]
"""

import sys
from dataclasses import replace

from consumer.cli import main
from schemas.catalogue import RECORD_OF_KIND
from schemas.layout import Field


def yesterday(field: Field) -> Field:
    if field.name != "tunnel":
        return field
    return replace(field, kind=replace(field.kind, allowed=field.kind.allowed[:-1]))


if __name__ == "__main__":
    flow = RECORD_OF_KIND["flow"]
    RECORD_OF_KIND["flow"] = replace(flow, fields=tuple(map(yesterday, flow.fields)))
    sys.exit(main())
