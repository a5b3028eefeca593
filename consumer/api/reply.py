# SPDX-License-Identifier: Apache-2.0
"""The headers and the closing lines of a reply, as ClickHouse writes them."""

import json
import secrets
import string

from consumer.api.fault import Fault
from consumer.api.results import Result

DISPLAY_NAME = "hookline"
_TAG_LENGTH = 16
_TAG_LETTERS = string.ascii_lowercase
_MAX_MIDSTREAM_BYTES = 16 * 1024
_PLAIN = "text/plain; charset=UTF-8"
_JSON = "application/json; charset=UTF-8"
_JSON_LINES = "application/x-ndjson; charset=UTF-8"
_TSV = "text/tab-separated-values; charset=UTF-8"
_BYTES = "application/octet-stream"
# By the longest prefix of the format's name.
_CONTENT_TYPES = {
    "Arrow": "application/vnd.apache.arrow.file",
    "ArrowStream": "application/vnd.apache.arrow.stream",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": _JSON,
    "JSONCompactEachRow": _JSON_LINES,
    "JSONCompactStringsEachRow": _JSON_LINES,
    "JSONEachRow": _JSON_LINES,
    "JSONL": _JSON_LINES,
    "JSONStringsEachRow": _JSON_LINES,
    "Markdown": "text/markdown; charset=UTF-8",
    "Native": _BYTES,
    "NDJSON": _JSON_LINES,
    "ORC": _BYTES,
    "Parquet": _BYTES,
    "RowBinary": _BYTES,
    "TSV": _TSV,
    "TabSeparated": _TSV,
    "XML": "application/xml; charset=UTF-8",
}


def common_headers(query_id: str, timezone: str) -> dict[str, str]:
    """What the reply to every query carries."""
    return {
        "X-ClickHouse-Server-Display-Name": DISPLAY_NAME,
        "X-ClickHouse-Query-Id": query_id,
        "X-ClickHouse-Timezone": timezone,
    }


def result_headers(result: Result, *, elapsed_ns: int) -> dict[str, str]:
    """What the reply with a result carries."""
    return {
        "Content-Type": _content_type(result.format),
        "X-ClickHouse-Format": result.format,
        "X-ClickHouse-Summary": summary(result, elapsed_ns=elapsed_ns),
    }


def _content_type(form: str) -> str:
    prefixes = [prefix for prefix in _CONTENT_TYPES if form.startswith(prefix)]
    return _CONTENT_TYPES[max(prefixes, key=len)] if prefixes else _PLAIN


def summary(result: Result, *, elapsed_ns: int) -> str:
    """The Summary header: what was read until now, numbers as text."""
    numbers = {
        "read_rows": result.read_rows,
        "read_bytes": result.read_bytes,
        "written_rows": 0,
        "written_bytes": 0,
        "total_rows_to_read": "0",
        "result_rows": "0",
        "result_bytes": "0",
        "elapsed_ns": elapsed_ns,
    }
    return json.dumps(
        {name: str(number) for name, number in numbers.items()}, separators=(",", ":")
    )


def fault_headers(fault: Fault) -> dict[str, str]:
    """What the reply with an error carries."""
    return {"Content-Type": _PLAIN, "X-ClickHouse-Exception-Code": str(fault.code)}


def new_exception_tag() -> str:
    """The word by which a client tells an error in the middle of a result from the result."""
    return "".join(secrets.choice(_TAG_LETTERS) for _ in range(_TAG_LENGTH))


def midstream_exception(fault: Fault, *, tag: str, version: str) -> bytes:
    """What stands at the end of a result that could not be completed."""
    text = fault.text(version).encode()[:_MAX_MIDSTREAM_BYTES].rstrip(b"\n") + b"\n"
    return b"\r\n__exception__\r\n%b\r\n%b%d %b\r\n__exception__\r\n" % (
        tag.encode(),
        text,
        len(text),
        tag.encode(),
    )
