# SPDX-License-Identifier: Apache-2.0
"""Letters and their counts for programs: JSON, an object a line, or CSV with a header.

Names are those of the columns of the table `dead_letters`.
"""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hookline.dead_letter.entries import Entry, iso_time
from hookline.dead_letter.tally import Group
from hookline.output import printable


def write_records(form: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Print all of *records*, which have the same keys, in the form `json` or `csv`."""
    if form == "json":
        for record in records:
            # json escapes all that is no ASCII, but takes DEL for text.
            print(json.dumps(record).replace("\x7f", "\\u007f"))
        return
    if not records:
        return
    writer = csv.DictWriter(sys.stdout, list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({key: _plain(value) for key, value in record.items()})


def entry_record(entry: Entry) -> dict[str, Any]:
    """A letter."""
    letter = entry.letter
    return {
        "time": iso_time(entry.time_ms),
        "node": entry.node,
        "letter_partition": entry.partition,
        "letter": entry.offset,
        "topic": letter.topic if letter else None,
        "record_partition": letter.partition if letter else None,
        "record_offset": letter.offset if letter else None,
        "record_time": iso_time(letter.timestamp_ms) if letter else None,
        "payload_bytes": entry.payload_bytes,
        "reason": entry.reason,
        "replayed": None if entry.replayed_ms is None else iso_time(entry.replayed_ms),
    }


def group_record(group: Group) -> dict[str, Any]:
    """How many letters have a reason."""
    return {
        "letters": group.letters,
        "replayed": group.replayed,
        "topic": group.topic or None,
        "nodes": sorted(group.nodes),
        "has_more_nodes": group.has_more_nodes,
        "reason": group.reason,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return printable(" ".join(value))
    return printable(value) if isinstance(value, str) else value
