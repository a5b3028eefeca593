# SPDX-License-Identifier: Apache-2.0
"""Rows of one kind from many nodes, as the columns that detectors look at.

Agents send small batches, and an operation on ten rows costs as much as on a thousand; so what one
fetch brings of a kind is joined first.  A column that a batch lacks, because its agent is older, is
filled with zeros or empty names.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas.catalogue import RECORD_OF_KIND
from schemas.layout import NAME, TEXT, Field
from schemas.wire import Batch, Column, Names, Text, no_text

T = TypeVar("T")

NS_PER_S = 1_000_000_000


class Rows:
    """Rows of *batches*, which are of one kind and at least one.

    `rows["bytes"]` is a column; one of names is `Names`, whose categories differ, one of texts is
    `Text`.
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches
        self.record = RECORD_OF_KIND[batches[0].kind]
        self.count = sum(batch.rows for batch in batches)
        self._columns: dict[str, Any] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, name: str) -> Any:
        if name not in self._columns:
            field = next(one for one in self.record.fields if one.name == name)
            self._columns[name] = _joined(field, self.batches)
        return self._columns[name]

    @cached_property
    def node(self) -> Names:
        """Which node each row is of."""
        return self._of_batches([batch.node for batch in self.batches])

    @cached_property
    def run(self) -> Names:
        """Which run of an agent each row is of."""
        return self._of_batches([batch.run for batch in self.batches])

    def _of_batches(self, names: Sequence[str]) -> Names:
        codes = np.repeat(np.arange(len(names)), [batch.rows for batch in self.batches])
        return _distinct(codes.astype(np.intp), names)

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """How long each row's interval was, a second at least."""
        return np.asarray(np.maximum((self["end"] - self["time"]) / NS_PER_S, 1.0))

    def kept(self, name: str, make: Callable[["Rows"], T]) -> T:
        """What *make* computes of these rows, once for all who ask for it by *name*."""
        if name not in self._columns:
            self._columns[name] = make(self)
        kept: T = self._columns[name]
        return kept


def _joined(field: Field, batches: Sequence[Batch]) -> Column:
    if field.kind is NAME:
        return _joined_names([_names(batch, field) for batch in batches])
    if field.kind is TEXT:
        return _joined_texts([_texts(batch, field) for batch in batches])
    return np.concatenate([_values(batch, field) for batch in batches])


def _values(batch: Batch, field: Field) -> NDArray[Any]:
    column = batch.columns.get(field.name)
    return column if isinstance(column, np.ndarray) else np.zeros(batch.rows, field.kind.numpy)


def _names(batch: Batch, field: Field) -> Names:
    column = batch.columns.get(field.name)
    return column if isinstance(column, Names) else Names(np.zeros(batch.rows, "u1"), ("",))


def _texts(batch: Batch, field: Field) -> Text:
    column = batch.columns.get(field.name)
    return column if isinstance(column, Text) else no_text(batch.rows)


def _joined_names(all_names: Sequence[Names]) -> Names:
    categories = [one for names in all_names for one in names.categories]
    begins = np.cumsum([0, *(len(names.categories) for names in all_names)])
    codes = [
        names.codes.astype(np.intp) + begin
        for names, begin in zip(all_names, begins[:-1], strict=True)
    ]
    return _distinct(np.concatenate(codes), categories)


def _distinct(codes: NDArray[np.intp], categories: Sequence[str]) -> Names:
    """The same names, each category once."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(categories))}
    translated = np.array([numbers[name] for name in categories], np.intp)
    return Names(translated[codes] if len(codes) else codes, tuple(numbers))


def _joined_texts(texts: Sequence[Text]) -> Text:
    return Text(
        np.concatenate([one.lengths for one in texts]),
        np.concatenate([one.content for one in texts]),
    )


def name_keys(names: Names, hash_of: Callable[[Any], NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """A key a row that is the same wherever the name is, whatever its code."""
    words = np.array(
        [int.from_bytes(_digest(name), "little") for name in names.categories], np.uint64
    )
    return hash_of(words)[names.codes] if len(words) else np.empty(0, np.uint64)


def _digest(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=8).digest()


def address_bytes(addresses: NDArray[Any]) -> NDArray[np.uint8]:
    """Addresses as an array of shape (rows, 16)."""
    return np.ascontiguousarray(addresses).view(np.uint8).reshape(-1, 16)


def is_ipv4(octets: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((octets[:, :10] == 0).all(axis=1) & (octets[:, 10:12] == 255).all(axis=1))
