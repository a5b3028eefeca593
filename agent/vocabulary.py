# SPDX-License-Identifier: Apache-2.0
"""Numbers that stand for texts, and the columns of names that they become.

Owners carry numbers: the kernel's id of a cgroup, the hash of a command.  What they stand for is
looked up for whole arrays at once; Python sees each text once, when it is new.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.wire import MAX_CATEGORIES, MAX_NAME_BYTES, Names

Ids = NDArray[np.uint64]


class Vocabulary:
    """Of each id known, one text for each of *names*; 0 and unknown ids stand for no text.

    When there are more than *most*, those go first that were not asked for longest.
    """

    def __init__(self, names: Sequence[str], most: int) -> None:
        self._names = tuple(names)
        self._most = min(most, MAX_CATEGORIES - 1)
        self._known: dict[int, tuple[str, ...]] = {}
        self._is_stale = True
        self._ids = np.zeros(1, np.uint64)
        self._is_used = np.zeros(1, np.bool_)
        self._codes = [np.zeros(1, np.uint16) for _ in names]
        self._texts: list[tuple[str, ...]] = [("",) for _ in names]

    def __len__(self) -> int:
        return len(self._known)

    def unknown(self, ids: Ids) -> Ids:
        """Each id among *ids* that is not known, once; 0 is."""
        self._refresh()
        is_unknown = self._ids[self._place(ids)] != ids
        # Nearly always; and to sort nothing takes longer than to see that.
        return np.unique(ids[is_unknown]) if is_unknown.any() else ids[:0]

    def put(self, texts: Mapping[int, tuple[str, ...]]) -> None:
        """Learn what ids stand for, or that it has changed."""
        new = {id_: of_id for id_, of_id in texts.items() if self._known.get(id_) != of_id}
        if not new:
            return
        for id_ in self._ids[self._is_used].tolist():
            if id_ in self._known:
                self._known[id_] = self._known.pop(id_)
        self._is_used[:] = False
        for id_, of_id in new.items():
            self._known.pop(id_, None)
            self._known[id_] = tuple(map(_fitting, of_id))
        for id_ in list(self._known)[: max(len(self._known) - self._most, 0)]:
            del self._known[id_]
        self._is_stale = True

    def columns(self, ids: Ids) -> dict[str, Names]:
        """The texts of *ids*, a column for each name."""
        self._refresh()
        place = self._place(ids)
        place[self._ids[place] != ids] = 0
        self._is_used[place] = True
        return {
            name: narrowed(codes[place], texts)
            for name, codes, texts in zip(self._names, self._codes, self._texts, strict=True)
        }

    def _place(self, ids: Ids) -> NDArray[np.intp]:
        return np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)

    def _refresh(self) -> None:
        if not self._is_stale:
            return
        self._is_stale = False
        ids = sorted(self._known)
        self._ids = np.array([0, *ids], np.uint64)
        self._is_used = np.zeros(len(self._ids), np.bool_)
        for number in range(len(self._names)):
            code_of = {"": 0}
            codes = [code_of.setdefault(self._known[id_][number], len(code_of)) for id_ in ids]
            self._codes[number] = np.array([0, *codes], np.uint16)
            self._texts[number] = tuple(code_of)


def narrowed(codes: NDArray[Any], texts: Sequence[str]) -> Names:
    """The column of *texts* at *codes*, with only those categories that occur in it."""
    is_used = np.zeros(len(texts), np.bool_)
    is_used[codes] = True
    used = np.flatnonzero(is_used)
    new_codes = np.zeros(len(texts), np.uint8 if len(used) <= 256 else np.dtype("<u2"))
    new_codes[used] = np.arange(len(used))
    return Names(new_codes[codes], tuple(texts[code] for code in used.tolist()))


def _fitting(text: str) -> str:
    """The text as a category: valid, and of a long one the end, which says most."""
    # A name from the file system may hold any bytes, which Python carries as surrogates.
    encoded = text.encode(errors="surrogateescape").decode(errors="backslashreplace").encode()
    if len(encoded) <= MAX_NAME_BYTES:
        return encoded.decode()
    mark = "…".encode()
    return (mark + encoded[len(mark) - MAX_NAME_BYTES :]).decode(errors="ignore")
