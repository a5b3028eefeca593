# SPDX-License-Identifier: Apache-2.0
"""The vocabulary in which events are declared: kinds, fields, layouts and records.

A *field* is written once, in `fields.py` or beside the one thing that uses it.  A *layout*
arranges fields into a struct that the kernel programs and the agent share; a *record*
arranges them into the columns that travel through Kafka into one ClickHouse table.  The
vocabulary is kept poor on purpose: five targets (C, numpy, wire, DDL, reference page) are
cheap to derive only while there is little to say.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace


class LayoutError(ValueError):
    """A declaration that cannot become a struct or a table; the text names the field."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one value is stored: in C, in numpy, in ClickHouse."""

    c: str
    numpy: str
    clickhouse: str
    size_bytes: int
    align_bytes: int
    count: int = 1  # elements of a C array
    allowed: tuple[int, ...] = ()  # the numbers that have a name; empty where all are allowed


U8 = Kind("__u8", "|u1", "UInt8", 1, 1)
U16 = Kind("__u16", "<u2", "UInt16", 2, 2)
U32 = Kind("__u32", "<u4", "UInt32", 4, 4)
U64 = Kind("__u64", "<u8", "UInt64", 8, 8)
# No program of the kernel has one; it is for what was computed of many rows.
F64 = Kind("", "<f8", "Float64", 8, 8)
# Nanoseconds since the epoch.  ClickHouse stores DateTime64(9) as exactly this integer.
TIME_NS = Kind("__s64", "<i8", "DateTime64(9, 'UTC')", 8, 8)
# 16 bytes in network order; IPv4 is mapped into ::ffff/96.  numpy's S16 would strip the
# trailing zero bytes of an address, so the kind is void.
ADDR = Kind("__u64", "|V16", "IPv6", 16, 8, count=2)
# Text that repeats from row to row.  It travels as small codes and a list of categories.
NAME = Kind("", "", "LowCardinality(String)", 0, 1)
# Text of which there are about as many as rows.  It travels as lengths and all bytes in a row.
TEXT = Kind("", "", "String", 0, 1)


def raw(size_bytes: int) -> Kind:
    """Bytes of a fixed length, as captured."""
    return Kind("__u8", f"|V{size_bytes}", f"FixedString({size_bytes})", size_bytes, 1, size_bytes)


def enum8(**values: int) -> Kind:
    """A one-byte number with names, rendered to a C enum and a ClickHouse Enum8."""
    names = ", ".join(f"'{name.replace('_', '-')}' = {value}" for name, value in values.items())
    return replace(U8, clickhouse=f"Enum8({names})", allowed=tuple(values.values()))


@dataclass(frozen=True, slots=True)
class Field:
    """One named value, what it means, and how ClickHouse should compress it."""

    name: str
    kind: Kind
    doc: str
    codec: str = "ZSTD(1)"

    def of(self, kind: Kind, doc: str = "") -> "Field":
        """The same field stored as another kind, as the kernel's narrower counters are."""
        return replace(self, kind=kind, doc=doc or self.doc)

    def coded(self, codec: str) -> "Field":
        """The same field in a table whose order another codec suits better."""
        return replace(self, codec=codec)


def pad(size_bytes: int) -> Field:
    """Bytes that keep the next field aligned.  Declared, so that no struct has holes."""
    kind = replace(U8, numpy=f"|V{size_bytes}", size_bytes=size_bytes, count=size_bytes)
    return Field("", kind, "")


@dataclass(frozen=True, slots=True)
class Layout:
    """A C struct shared by the kernel programs and the agent.

    Raises:
        LayoutError: a field is unaligned or repeated, or the size is not a multiple of 8.
    """

    name: str
    doc: str
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields if field.name]
        for name in names:
            if names.count(name) > 1:
                raise LayoutError(f"{self.name}.{name} is declared twice; remove one")
        for field, byte_offset in self.placed():
            if byte_offset % field.kind.align_bytes:
                raise LayoutError(
                    f"{self.name}.{field.name} is at byte {byte_offset}, which is no multiple"
                    f" of {field.kind.align_bytes}; reorder the fields or put a pad before it"
                )
        if self.size_bytes % 8:
            raise LayoutError(
                f"{self.name} has {self.size_bytes} bytes, which is no multiple of 8;"
                f" end it with pad({-self.size_bytes % 8})"
            )

    @property
    def size_bytes(self) -> int:
        return sum(field.kind.size_bytes for field in self.fields)

    def placed(self) -> Iterator[tuple[Field, int]]:
        """Every field, padding included, with its byte offset."""
        byte_offset = 0
        for field in self.fields:
            yield field, byte_offset
            byte_offset += field.kind.size_bytes


@dataclass(frozen=True, slots=True)
class Bits:
    """Several small numbers packed into one 32-bit field, lowest bits first."""

    name: str
    doc: str
    widths: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        if (total := sum(width for _, width in self.widths)) != 32:
            raise LayoutError(f"{self.name} packs {total} bits; widths must add up to 32")

    def shift(self, name: str) -> int:
        """How far left the part *name* is shifted."""
        names = [part for part, _ in self.widths]
        return sum(width for _, width in self.widths[: names.index(name)])

    def mask(self, name: str) -> int:
        """The mask of the part *name* once it is shifted down."""
        return (1 << dict(self.widths)[name]) - 1


@dataclass(frozen=True, slots=True)
class Record:
    """One event kind: the columns of its Kafka records and of its ClickHouse table.

    The node's name travels once in the record's header and becomes the column `node`.
    """

    kind: str
    table: str
    doc: str
    fields: tuple[Field, ...]
    order_by: str

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        for name in names:
            if names.count(name) > 1:
                raise LayoutError(f"{self.kind}.{name} is declared twice; remove one")

    @property
    def topic(self) -> str:
        return f"hookline.{self.kind}.v1"
