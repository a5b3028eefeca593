# SPDX-License-Identifier: Apache-2.0
"""Long lists of networks as conditions in SQL.

ClickHouse keeps what stands behind IN in a hash table, so an address is looked up by its first bits
once for every length of prefix that the list has, however many networks there are.  The bits come
in base64, since a statement may have 256 KiB and no more (max_query_size); a list that does not fit
becomes several conditions, and no address meets two of them.
"""

from base64 import b64encode
from collections.abc import Iterator, Sequence

from schemas.rules.intervals import ADDRESS_BITS, Prefix

# The rest of the statement needs room too.
MOST_CHARS = 180_000
_MAPPED_BITS = 96
_MAPPED = 0xFFFF


def conditions_of(column: str, prefixes: Sequence[Prefix], *, most: int = MOST_CHARS) -> list[str]:
    """The SQL of "*column* is in *prefixes*", which are disjoint, in pieces to be asked in turn.

    A piece has *most* characters at most.
    """
    found: list[str] = []
    parts: list[str] = []
    chars = 0
    for part in _parts(column, prefixes, most):
        if parts and chars + len(part) > most:
            found.append(_any(parts))
            parts, chars = [], 0
        parts.append(part)
        chars += len(part)
    return [*found, _any(parts)] if parts else found


def _any(parts: list[str]) -> str:
    return f"({' OR '.join(parts)})"


def _parts(column: str, prefixes: Sequence[Prefix], most: int) -> Iterator[str]:
    """A condition for each length of prefix, or several where one would be too long."""
    by_length: dict[int, list[int]] = {}
    mapped: dict[int, list[int]] = {}
    for first, length in prefixes:
        is_mapped = length >= _MAPPED_BITS and first >> 32 == _MAPPED
        (mapped if is_mapped else by_length).setdefault(length, []).append(
            first >> (ADDRESS_BITS - length)
        )
    number = f"toUInt128({column})"
    for length, keys in sorted(mapped.items()):
        is_four = f"bitShiftRight({number}, 32) = {_MAPPED}"
        bits = length - _MAPPED_BITS
        if not bits:
            yield is_four
            continue
        # The last 32 bits alone, so that fewer bytes tell the network.
        key = f"bitShiftRight(toUInt32({number}), {32 - bits})"
        own = [one & ((1 << bits) - 1) for one in keys]
        for listed in _sets(own, bits, "reinterpretAsUInt32", most):
            yield f"({is_four} AND {key} IN {listed})"
    for length, keys in sorted(by_length.items()):
        key = f"bitShiftRight({number}, {ADDRESS_BITS - length})"
        for listed in _sets(keys, length, "reinterpretAsUInt128", most):
            yield f"{key} IN {listed}"


def _sets(keys: Sequence[int], bits: int, read: str, most: int) -> Iterator[str]:
    """Numbers of so many bits as what may stand behind IN; *read* makes a number of bytes."""
    width = (bits + 7) // 8
    # Base64 makes four characters of three bytes; the rest is what stands around them.
    at_once = max((most - 500) * 3 // 4 // width, 1)
    for start in range(0, len(keys), at_once):
        some = keys[start : start + at_once]
        packed = b64encode(b"".join(key.to_bytes(width, "little") for key in some)).decode()
        taken = f"substring(base64Decode('{packed}'), 1 + {width} * place, {width})"
        yield f"(SELECT arrayJoin(arrayMap(place -> {read}({taken}), range({len(some)}))))"
