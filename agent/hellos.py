# SPDX-License-Identifier: Apache-2.0
"""Put ClientHellos together that came in several chunks.

Each hello gets a row of a matrix, as wide as the longest that the kernel captures.  A chunk goes
on where its sequence number says; round by round, each hello that is not whole takes the chunk
that follows.  What is still missing some seconds later will not come: then the hello is given
out as it is.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.keys import Hashing, Keys, halves
from agent.pieces import Indexes, ragged
from agent.rows import Rows, as_bytes, chosen, joined
from agent.tls import Hellos, record_bytes
from schemas.dtype import dtype_from_layout
from schemas.tls import TLS_CHUNK_BYTES, TLS_EVENT, TLS_HELLO_BYTES

# A segment that was lost on its way is sent again sooner.
WAIT_NS = 2 * 10**9
MAX_WAITING = 1024

_CHUNK_AT = TLS_EVENT.size_bytes - TLS_CHUNK_BYTES


@dataclass(slots=True)
class _Open:
    """Hellos that have begun: their first events, their bytes, and how many of those are there."""

    heads: Rows
    content: NDArray[np.uint8]  # (hellos, TLS_HELLO_BYTES)
    filled: Indexes

    def chosen(self, which: NDArray[np.bool_]) -> "_Open":
        # Mostly all or none is; copying whole matrices took most of the time.
        if which.all():
            return self
        return _Open(chosen(self.heads, which), self.content[which], self.filled[which])


def _none() -> _Open:
    return _opened(np.empty(0, dtype_from_layout(TLS_EVENT)))


@dataclass(slots=True)
class Assembly:
    """The hellos of which a part is missing yet."""

    _hashing: Hashing = field(default_factory=Hashing)
    _open: _Open = field(default_factory=_none)

    def __len__(self) -> int:
        return len(self._open.filled)

    def join(self, events: Rows, now_ns: int, *, is_last: bool = False) -> tuple[Rows, Hellos]:
        """The first event of each hello that is done, and the hellos.

        *now_ns* is on the clock of the events.  With *is_last* all hellos are done.
        """
        is_start = events["is_start"] == 1
        hellos = _both(self._open, _opened(chosen(events, is_start)))
        hellos = hellos.chosen(self._is_new(hellos.heads))
        wanted = np.minimum(record_bytes(_as_hellos(hellos)), TLS_HELLO_BYTES)
        self._extend(hellos, wanted, chosen(events, ~is_start))
        is_done = (hellos.filled >= wanted) | is_last
        is_done |= hellos.heads["seen_ns"].astype(np.int64) + WAIT_NS < now_ns
        is_done[np.flatnonzero(~is_done)[:-MAX_WAITING]] = True
        self._open = hellos.chosen(~is_done)
        done = hellos.chosen(is_done)
        return done.heads, _as_hellos(done)

    def _is_new(self, heads: Rows) -> NDArray[np.bool_]:
        """A segment that is sent again brings its hello again, which may be open yet."""
        is_new = np.zeros(len(heads), np.bool_)
        is_new[np.unique(self._keys(heads, heads["sequence"]), return_index=True)[1]] = True
        return is_new

    def _extend(self, hellos: _Open, wanted: Indexes, chunks: Rows) -> None:
        """Append the chunks that follow, as long as any does."""
        keys = self._keys(chunks, chunks["sequence"])
        order = np.argsort(keys, kind="stable")
        keys, content = keys[order], as_bytes(chunks).reshape(-1)
        rows = np.flatnonzero(hellos.filled < wanted)
        while len(rows) and len(keys):
            following = hellos.heads["sequence"][rows] + hellos.filled[rows].astype(np.uint32)
            sought = self._keys(chosen(hellos.heads, rows), following)
            place = np.minimum(np.searchsorted(keys, sought), len(keys) - 1)
            is_there = keys[place] == sought
            rows, chunk = rows[is_there], order[place[is_there]]
            filled = hellos.filled[rows]
            length = np.minimum(chunks["captured_bytes"][chunk], TLS_HELLO_BYTES - filled)
            to = ragged(rows * TLS_HELLO_BYTES + filled, length)
            start = chunk * TLS_EVENT.size_bytes + _CHUNK_AT
            hellos.content.reshape(-1)[to] = content[ragged(start, length)]
            hellos.filled[rows] += length
            rows = rows[(length > 0) & (hellos.filled[rows] < wanted[rows])]

    def _keys(self, events: Rows, sequence: NDArray[np.uint32]) -> Keys:
        """One key for connection, hook point and sequence number."""
        words = [*halves(events["src_addr"]), *halves(events["dst_addr"])]
        ports = [events[name] for name in ("src_port_be", "dst_port_be", "lane")]
        return self._hashing.keys([*words, *ports, sequence])


def _opened(heads: Rows) -> _Open:
    content = np.empty((len(heads), TLS_HELLO_BYTES), np.uint8)
    content[:, :TLS_CHUNK_BYTES] = as_bytes(heads)[:, _CHUNK_AT:]
    return _Open(heads, content, heads["captured_bytes"].astype(np.int64))


def _both(one: _Open, other: _Open) -> _Open:
    if not len(one.filled):
        return other
    return _Open(
        joined([one.heads, other.heads]),
        np.concatenate([one.content, other.content]),
        np.concatenate([one.filled, other.filled]),
    )


def _as_hellos(hellos: _Open) -> Hellos:
    starts = np.arange(len(hellos.filled)) * TLS_HELLO_BYTES
    return Hellos(hellos.content.reshape(-1), starts, hellos.filled)
