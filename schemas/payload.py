# SPDX-License-Identifier: Apache-2.0
"""Unpack the msgpack of a record from whoever wrote it, without more memory than it deserves.

A byte of msgpack can stand for an empty map, which takes 64 bytes of memory, and a payload of them
for as many times its size.  A record has three maps, and a list or two for each column; so these
are counted while they are unpacked, and not afterwards.
"""

from typing import Any

import msgpack

# Agents' records have a megabyte at most.  What cannot be counted while it is unpacked, values in
# lists and keys in maps, takes up to 40 times as much memory.
MAX_PAYLOAD_BYTES = 4 << 20
MAX_MAPS = 64
MAX_MAP_ENTRIES = 1 << 10
MAX_LISTS = 2 * MAX_MAP_ENTRIES


class PayloadError(ValueError):
    """The payload is no msgpack, or none that a record may be; the text says why."""


def unpack(payload: bytes) -> Any:
    """The value in *payload*: maps with texts as keys, lists, texts, bytes and numbers.

    Raises:
        PayloadError: it holds something else, or more of it than any record.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise PayloadError(f"payload has {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES}")
    counted = _Counted()
    try:
        # Other limits default to the payload's own length, so nothing is allocated for lies.
        return msgpack.unpackb(
            payload,
            object_pairs_hook=counted.map_of,
            list_hook=counted.list_of,
            ext_hook=_refuse_extension,
            max_map_len=MAX_MAP_ENTRIES,
            max_ext_len=0,
        )
    except PayloadError:
        raise
    except (ValueError, msgpack.UnpackException) as error:
        raise PayloadError(f"payload is no msgpack: {str(error) or type(error).__name__}") from None


class _Counted:
    """The maps and lists of one payload."""

    def __init__(self) -> None:
        self._maps = 0
        self._lists = 0

    def map_of(self, entries: list[tuple[Any, Any]]) -> dict[str, Any]:
        self._maps += 1
        if self._maps > MAX_MAPS:
            raise PayloadError(f"payload holds more than {MAX_MAPS} maps")
        found = dict(entries)
        if len(found) < len(entries):
            raise PayloadError("payload holds a map in which a key stands twice")
        if not all(isinstance(key, str) for key in found):
            raise PayloadError("payload holds a key that is no text")
        return found

    def list_of(self, values: list[Any]) -> list[Any]:
        self._lists += 1
        if self._lists > MAX_LISTS:
            raise PayloadError(f"payload holds more than {MAX_LISTS} lists")
        return values


def _refuse_extension(code: int, _: bytes) -> None:
    raise PayloadError(f"payload holds a value of the extension type {code}")
