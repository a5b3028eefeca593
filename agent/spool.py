# SPDX-License-Identifier: Apache-2.0
"""Keep batches in files until Kafka has them: a log that is appended to and read in order.

Every batch is in the log before it is sent, so none goes with this process: what was written is
the kernel's, whatever becomes of us.  What `syncing` returns makes it outlive the machine as well.

The log is cut into segments, files named by the number of their first entry.  One whose entries
are all acknowledged is deleted; while Kafka answers that is mostly before the kernel has found
time to write it to the disk.  While Kafka is away they add up to a bound, beyond which the oldest
is given up.  Whoever gives it up reads it once more, to say in the books what is lost with it.

What cannot be read ends its segment (agent/segments.py): at the end of the last one it is what a
crash cut off, anywhere else it is damage, and the gaps in the batches' own numbers tell what is
lost by it.
"""

import mmap
import os
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from agent.segments import Entry, Name, Segment, encoded, entries_of, entry_at, sync, write_all

_MOST_SEGMENT_BYTES = 16 << 20
_SEGMENTS = 64
# From here on room is worth more than time.
_MANY_WAITING_BYTES = 4 << 20
_ACKNOWLEDGED = "acknowledged"
_SEGMENT = re.compile(r"\d{20}\.batches")

RunAndKind = tuple[str, str]


@dataclass(slots=True)
class Waiting:
    """How much waits of one kind of one run."""

    batches: int = 0
    rows: int = 0


@dataclass(slots=True)
class Damage:
    """What could not be read."""

    torn_bytes: int = 0  # cut off while they were written, so that nobody relied on them
    bytes: int = 0
    lost: defaultdict[RunAndKind, int] = field(default_factory=lambda: defaultdict(int))


class Spool:
    """The log in one directory, which has one user at a time.

    Raises:
        OSError: the directory cannot be made, read or written.
    """

    def __init__(self, directory: Path, most_bytes: int) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._most_bytes = most_bytes
        self._segment_bytes = max(min(most_bytes // _SEGMENTS, _MOST_SEGMENT_BYTES), 1)
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._acknowledged = _mapped_number(directory / _ACKNOWLEDGED)
        self._segments: list[Segment] = []
        self._unsynced: list[Segment] = []
        # Entries that were read and are not acknowledged, and where the one behind them begins.
        self._window: deque[Entry] = deque()
        self._reading: Segment | None = None
        self._read_byte = 0
        # Where the first entry that is not acknowledged begins, in the first segment.
        self._waits_byte = 0
        self.waiting: defaultdict[RunAndKind, Waiting] = defaultdict(Waiting)
        self.waiting_bytes = 0
        self.damage = Damage()
        # The last batch of each run and kind that was found when the log was opened.
        self.found: dict[RunAndKind, int] = {}
        self._next = self.acknowledged
        self._open()

    @property
    def acknowledged(self) -> int:
        """The number of the oldest entry that waits, or would."""
        return int(self._acknowledged[0])

    @property
    def next_number(self) -> int:
        """The number that the next entry will have."""
        return self._next

    @property
    def size_bytes(self) -> int:
        """What the files hold, entries that are acknowledged included."""
        return sum(segment.size_bytes for segment in self._segments)

    def append(self, batches: Sequence[tuple[Name, bytes]]) -> None:
        """Store *batches*, all of them or none.

        Raises:
            OSError: there is no room, or the disk fails.
        """
        parts: list[bytes] = []
        compressor = self._compressor if self.waiting_bytes > _MANY_WAITING_BYTES else None
        for count, (name, payload) in enumerate(batches):
            parts += encoded(name, payload, self._next + count, compressor)
        if not parts:
            return
        segment = self._segment_to_write()
        # What got there and is no entry must go before the next one.
        if segment.is_torn:
            os.ftruncate(segment.fd, segment.size_bytes)
        segment.is_torn = True
        write_all(segment.fd, parts)
        segment.is_torn = False
        size_bytes = sum(map(len, parts))
        segment.size_bytes += size_bytes
        self.waiting_bytes += size_bytes
        self._next += len(batches)
        if segment not in self._unsynced:
            self._unsynced.append(segment)
        for name, _ in batches:
            self._count(name, 1)

    def peek(self, most: int, before: int | None = None) -> list[Entry]:
        """The oldest entries that are not acknowledged, at most so many.

        Of those from number *before* on nobody is to know yet.
        """
        before = self._next if before is None else before
        while len(self._window) < most and (entry := self._read_next(before)):
            self._window.append(entry)
        return [self._window[place] for place in range(min(most, len(self._window)))]

    def acknowledge(self, count: int) -> None:
        """Forget the oldest *count* entries, which were peeked at."""
        for _ in range(count):
            entry = self._window.popleft()
            # Whatever lay between was given up.
            while entry.number >= self._end_of_first():
                self._delete(self._segments[0])
            self.waiting_bytes -= entry.end - self._waits_byte
            self._waits_byte = entry.end
            self._count(entry.name, -1)
            self._acknowledged[0] = entry.number + 1
        while len(self._segments) > 1 and self._waits_byte >= self._segments[0].size_bytes:
            self._delete(self._segments[0])

    def excess(self) -> list[Segment]:
        """The oldest segments that must go for the bound to hold.

        The one that is written to stays, and those whose entries are on their way.
        """
        too_many = self.size_bytes - self._most_bytes
        on_their_way = self._window[-1].number if self._window else -1
        found = []
        for segment in self._segments[:-1]:
            if too_many <= 0:
                break
            if segment.first > on_their_way:
                found.append(segment)
                too_many -= segment.size_bytes
        return found

    def entries(self, segment: Segment) -> Iterator[Entry]:
        """What waits in *segment*."""
        at_byte = self._waits_byte if segment is self._segments[0] else 0
        yield from entries_of(segment, at_byte)

    def give_up(self, segment: Segment) -> None:
        """Delete *segment* with everything that waits in it."""
        at_byte = self._waits_byte if segment is self._segments[0] else 0
        for entry in self.entries(segment):
            self._count(entry.name, -1)
        self.waiting_bytes -= segment.size_bytes - at_byte
        self._delete(segment)

    def give_up_named(self, firsts: Sequence[int]) -> None:
        """Give up the segments with these first numbers, as far as they are still there."""
        for segment in [one for one in self._segments if one.first in firsts]:
            self.give_up(segment)

    def forget_from(self, number: int) -> None:
        """Cut off the entries from *number* on: they were written, but never became valid.

        Nobody may have peeked at them.
        """
        while self._segments and self._segments[-1].first >= number:
            self._unfind(entries_of(self._segments[-1]))
            self.give_up(self._segments[-1])
        if self._segments:
            end = 0
            for entry in entries_of(self._segments[-1]):
                end = entry.end if entry.number < number else end
            self._unfind(entries_of(self._segments[-1], end))
            self._cut(self._segments[-1], end)
        self._next = max(min(self._next, number), self.acknowledged)

    def _unfind(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            key, seq = (entry.name.run, entry.name.kind), entry.name.seq
            self.found[key] = min(self.found.get(key, seq), seq - 1)

    def syncing(self) -> Callable[[], None] | None:
        """What brings all that was appended onto the disk, in a thread; None where it is there."""
        if not self._unsynced:
            return None
        fds = [os.dup(segment.fd) for segment in self._unsynced]
        fds.append(os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        self._unsynced.clear()
        return lambda: sync(fds)

    def close(self) -> None:
        for segment in self._segments:
            os.close(segment.fd)
        self._segments.clear()

    # Opening.

    def _open(self) -> None:
        is_damaged = False
        names = sorted(
            path.name for path in self._directory.iterdir() if _SEGMENT.fullmatch(path.name)
        )
        for name in names:
            segment, waits_byte = self._opened(self._directory / name, is_damaged=is_damaged)
            valid_bytes = segment.size_bytes
            size_bytes = os.fstat(segment.fd).st_size
            if valid_bytes < size_bytes:
                os.ftruncate(segment.fd, valid_bytes)
                is_damaged = is_damaged or name != names[-1]
                if name == names[-1]:
                    self.damage.torn_bytes += size_bytes - valid_bytes
                else:
                    self.damage.bytes += size_bytes - valid_bytes
            if not self._segments:
                self._waits_byte = waits_byte
            self._segments.append(segment)
        while len(self._segments) > 1 and self._waits_byte >= self._segments[0].size_bytes:
            self._delete(self._segments[0])

    def _opened(self, path: Path, *, is_damaged: bool) -> tuple[Segment, int]:
        """A segment as far as it can be read, and the byte at which what waits begins."""
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        segment = Segment(int(path.name.partition(".")[0]), path, fd)
        waits_byte = 0
        for entry in entries_of(segment):
            begin, segment.size_bytes = segment.size_bytes, entry.end
            self._next = max(self._next, entry.number + 1)
            key, seq = (entry.name.run, entry.name.kind), entry.name.seq
            if is_damaged and key in self.found:
                self.damage.lost[key] += max(seq - self.found[key] - 1, 0)
            self.found[key] = seq
            if entry.number < self.acknowledged:
                waits_byte = entry.end
            else:
                self._count(entry.name, 1)
                self.waiting_bytes += entry.end - begin
        return segment, waits_byte

    # Writing.

    def _segment_to_write(self) -> Segment:
        if self._segments and self._segments[-1].size_bytes < self._segment_bytes:
            return self._segments[-1]
        path = self._directory / f"{self._next:020}.batches"
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        segment = Segment(self._next, path, os.open(path, flags, 0o600))
        self._segments.append(segment)
        # One that was read to its end had stayed for being the newest.
        while len(self._segments) > 1 and self._waits_byte >= self._segments[0].size_bytes:
            self._delete(self._segments[0])
        return segment

    # Reading.

    def _read_next(self, before: int) -> Entry | None:
        while self._segments:
            if self._reading is None:
                self._reading, self._read_byte = self._segments[0], self._waits_byte
            if self._read_byte < self._reading.size_bytes:
                return self._read_here(self._reading, before)
            place = self._segments.index(self._reading) + 1
            if place == len(self._segments):
                return None
            self._reading, self._read_byte = self._segments[place], 0
        return None

    def _read_here(self, segment: Segment, before: int) -> Entry | None:
        if entry := entry_at(segment, self._read_byte):
            if entry.number >= before:
                return None
            self._read_byte = entry.end
            return entry
        # It was whole when it was written, or opened.
        self.damage.bytes += segment.size_bytes - self._read_byte
        waited = {key: one.batches for key, one in self.waiting.items()}
        self._cut(segment, self._read_byte)
        self._count_anew()
        for key, batches in waited.items():
            left = self.waiting[key].batches if key in self.waiting else 0
            self.damage.lost[key] += batches - left
        return self._read_next(before)

    def _count_anew(self) -> None:
        self.waiting.clear()
        for segment in self._segments:
            for entry in self.entries(segment):
                self._count(entry.name, 1)

    def _end_of_first(self) -> int:
        """The first number that is not in the first segment."""
        return self._segments[1].first if len(self._segments) > 1 else self._next

    def _cut(self, segment: Segment, end: int) -> None:
        for entry in entries_of(segment, end):
            self._count(entry.name, -1)
        self.waiting_bytes -= segment.size_bytes - end
        os.ftruncate(segment.fd, end)
        segment.size_bytes = end

    def _delete(self, segment: Segment) -> None:
        if segment is self._segments[0]:
            self._waits_byte = 0
        if segment is self._reading:
            self._read_beside(self._segments.index(segment))
        if segment in self._unsynced:
            self._unsynced.remove(segment)
        self._segments.remove(segment)
        os.close(segment.fd)
        segment.path.unlink()

    def _read_beside(self, place: int) -> None:
        """Go on reading behind the segment at *place*, or at the end of the one before it."""
        self._reading, self._read_byte = None, 0
        if place + 1 < len(self._segments):
            self._reading = self._segments[place + 1]
        elif place:
            self._reading = self._segments[place - 1]
            self._read_byte = self._reading.size_bytes

    def _count(self, name: Name, sign: int) -> None:
        key = name.run, name.kind
        waiting = self.waiting[key]
        waiting.batches += sign
        waiting.rows += sign * name.rows
        if not waiting.batches:
            del self.waiting[key]


def _mapped_number(path: Path) -> memoryview:
    """A number in a file, as memory: a store is all that it takes to keep it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size < 8:
            os.ftruncate(fd, 8)
        return memoryview(mmap.mmap(fd, 8)).cast("Q")
    finally:
        os.close(fd)
