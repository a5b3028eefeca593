# SPDX-License-Identifier: Apache-2.0
"""Counters of fixed size for keys without number: a flood of a million sources changes no size.

Every key becomes 64 bits by a hash with a secret of this process, so that nobody outside can choose
keys that fall together.  All operations take whole arrays: rows come by the ten thousand a second,
and a sketch that is told of them one by one, as those of libraries are, takes longer than all else.

`CountMin` sums, and never says too little (Cormode, Muthukrishnan, 2005).  `HyperLogLog` counts
what differs (Flajolet et al., 2007).  `Seen` knows again what it was told, as Bloom's filter does
(1970).  `Distinct` says how many different items each key has had: a pair that is new in `Seen` is
one more in `CountMin`.  `Heaviest` keeps the largest keys by name (space-saving; Metwally et al.,
2005).  `Places` gives a number of keys a place each, for what cannot be summed.
"""

import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Values = NDArray[np.float64]

_FINAL_1 = np.uint64(0xBF58476D1CE4E5B9)  # of splitmix64 (Steele, Lea, Flood, 2014)
_FINAL_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Hash:
    """A hash with a key of its own, drawn at its making or given for tests."""

    def __init__(self, seed: int | None = None) -> None:
        self.seed = np.uint64(secrets.randbits(64) if seed is None else seed)

    def of(self, *columns: Any) -> Keys:
        """One key a row of these columns: numbers of any width, or addresses of 16 bytes."""
        first, *others = [word for column in columns for word in _words(column)]
        mixed = _mixed(first ^ self.seed)
        for word in others:
            # What came before is mixed, so the order of the columns counts.
            mixed = _mixed((mixed + _GOLDEN) ^ word)
        return mixed


def _words(column: Any) -> list[Keys]:
    values = np.asarray(column)
    if values.dtype.kind == "V":
        halves = np.ascontiguousarray(values).view("<u8").reshape(-1, 2)
        return [halves[:, 0], halves[:, 1]]
    return [values.astype(np.uint64)]


def _mixed(words: Keys) -> Keys:
    # Multiplication modulo 2^64 is what is meant; numpy warns only of scalars.
    mixed = (words ^ (words >> np.uint64(30))) * _FINAL_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _FINAL_2
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def grouped(keys: Keys) -> tuple[Keys, NDArray[np.intp], NDArray[np.intp]]:
    """The different keys, a row of each, and which of them each row has."""
    return np.unique(keys, return_index=True, return_inverse=True)


def among(few: Keys, many: Keys) -> NDArray[np.bool_]:
    """Which of *few* are in *many*, of which only those are sorted that may be meant."""
    ordered = np.sort(few)
    at = np.searchsorted(ordered, many)
    at[at == len(ordered)] = 0
    met = many[ordered[at] == many] if len(ordered) else many[:0]
    return np.asarray(np.isin(few, met))


def summed(values: Any, groups: NDArray[np.intp], count: int) -> Values:
    """The sums of *values* by group."""
    return np.asarray(np.bincount(groups, np.asarray(values, np.float64), count), np.float64)


class CountMin:
    """Sums by key, of several *fields* side by side, in *depth* rows of *width* cells.

    An estimate is never less than the sum, where nothing is subtracted; and it is more by e/width of
    everything at most, but for one key in e^depth.
    """

    def __init__(self, width: int = 1 << 15, *, depth: int = 4, fields: int = 1) -> None:
        self._width = width
        self._cells = np.zeros((depth, width, fields))
        self.totals = np.zeros(fields)

    @property
    def size_bytes(self) -> int:
        return self._cells.nbytes

    def add(self, keys: Keys, values: Values) -> None:
        """Add *values*, of shape (keys, fields), where a key may stand several times."""
        values = values.reshape(len(keys), self._cells.shape[2])
        for cells, at in zip(self._cells, self._places(keys), strict=True):
            np.add.at(cells, at, values)
        self.totals += values.sum(axis=0)

    def estimates(self, keys: Keys) -> Values:
        """What each key has at most, of shape (keys, fields)."""
        found = [cells[at] for cells, at in zip(self._cells, self._places(keys), strict=True)]
        return np.asarray(np.minimum.reduce(found))

    def noise(self) -> Values:
        """What a cell holds on average of keys that are not asked for, by field."""
        return self.totals / self._width

    def clear(self) -> None:
        self._cells.fill(0)
        self.totals.fill(0)

    def _places(self, keys: Keys) -> list[NDArray[np.intp]]:
        # Two hashes make as many as one needs (Kirsch, Mitzenmacher, 2006).
        low, step = keys & np.uint64(0xFFFFFFFF), (keys >> np.uint64(32)) | np.uint64(1)
        return [
            ((low + np.uint64(row) * step) % np.uint64(self._width)).astype(np.intp)
            for row in range(len(self._cells))
        ]


class Rotating:
    """A `CountMin` of the last one to two *periods*: two, of which the older is emptied in turn.

    Times are those of the clock, in seconds.
    """

    def __init__(self, period_s: float, width: int = 1 << 15, *, fields: int = 1) -> None:
        self._period_s = period_s
        self._both = [CountMin(width, fields=fields), CountMin(width, fields=fields)]
        self._began = -float("inf")

    @property
    def size_bytes(self) -> int:
        return sum(one.size_bytes for one in self._both)

    def rotate(self, now: float) -> None:
        """Forget what is older than two periods."""
        age = now - self._began
        if age < self._period_s:
            return
        if age >= 2 * self._period_s:
            self._both[0].clear()
        self._both.reverse()
        self._both[0].clear()
        self._began = now

    def add(self, keys: Keys, values: Values) -> None:
        self._both[0].add(keys, values)

    def estimates(self, keys: Keys) -> Values:
        """The sums of both, less what others are likely to have put there."""
        return np.maximum(
            sum((one.estimates(keys) - one.noise() for one in self._both), np.zeros(1)), 0
        )


class HyperLogLog:
    """How many different keys there were, within 1.04/sqrt(2^bits) of it, as a standard error."""

    def __init__(self, bits: int = 10) -> None:
        self._bits = bits
        self._registers = np.zeros(1 << bits, np.uint8)

    def add(self, keys: Keys) -> None:
        at = (keys >> np.uint64(64 - self._bits)).astype(np.intp)
        rest = (keys << np.uint64(self._bits)) | np.uint64((1 << self._bits) - 1)
        np.maximum.at(self._registers, at, _leading_zeros(rest) + np.uint8(1))

    def estimate(self) -> float:
        count = len(self._registers)
        raw = _ALPHA * count * count / float(np.exp2(-self._registers.astype(float)).sum())
        empty = int((self._registers == 0).sum())
        if raw <= 2.5 * count and empty:
            return float(count * np.log(count / empty))
        return float(raw)


_ALPHA = 0.7213 / (1 + 1.079 / 1024)


def _leading_zeros(words: Keys) -> NDArray[np.uint8]:
    # A float's exponent is the place of the highest bit, unless rounding carries into the next.
    halves = (words >> np.uint64(32)).astype(np.float64)
    low = (words & np.uint64(0xFFFFFFFF)).astype(np.float64)
    high = np.where(halves > 0, np.frexp(halves)[1] + 32, np.frexp(low)[1])
    return (64 - high).astype(np.uint8)


class Seen:
    """Which keys it was told of, in 2^*bits* bits; now and then one too many."""

    _HASHES = 3

    def __init__(self, bits: int = 22) -> None:
        self._mask = np.uint64((1 << bits) - 1)
        self._bits = np.zeros(1 << bits, np.bool_)
        self.count = 0

    @property
    def size_bytes(self) -> int:
        return self._bits.nbytes

    @property
    def is_full(self) -> bool:
        """Whether one answer in eight is wrong: then half of the bits are set."""
        return self.count * self._HASHES > 0.69 * len(self._bits)

    def holds(self, keys: Keys) -> NDArray[np.bool_]:
        found = [self._bits[at] for at in self._places(keys)]
        return np.asarray(np.logical_and.reduce(found))

    def add(self, keys: Keys) -> NDArray[np.bool_]:
        """Remember *keys*, which differ; which of them are new."""
        is_new = ~self.holds(keys)
        for at in self._places(keys[is_new]):
            self._bits[at] = True
        self.count += int(is_new.sum())
        return np.asarray(is_new)

    def clear(self) -> None:
        self._bits.fill(False)
        self.count = 0

    def _places(self, keys: Keys) -> list[Keys]:
        step = (keys >> np.uint64(32)) | np.uint64(1)
        return [(keys + np.uint64(one) * step) & self._mask for one in range(self._HASHES)]


class Distinct:
    """How many different items each key has had in the last one to two *periods* (seconds).

    More items than `Seen` has room for make the periods shorter, which `early` counts: detail is
    lost, and nothing is invented.
    """

    def __init__(self, period_s: float, *, bits: int = 22, width: int = 1 << 14) -> None:
        self._period_s = period_s
        self._seen = [Seen(bits), Seen(bits)]
        self._counts = [CountMin(width), CountMin(width)]
        self._began = -float("inf")
        self.early = 0

    @property
    def size_bytes(self) -> int:
        return sum(one.size_bytes for one in self._seen) + sum(
            one.size_bytes for one in self._counts
        )

    def rotate(self, now: float) -> None:
        is_full = self._seen[0].is_full
        if now - self._began < self._period_s and not is_full:
            return
        self.early += is_full
        if now - self._began >= 2 * self._period_s:
            self._seen[0].clear()
            self._counts[0].clear()
        self._seen.reverse()
        self._counts.reverse()
        self._seen[0].clear()
        self._counts[0].clear()
        self._began = now

    def add(self, keys: Keys, items: Keys) -> Values:
        """Each row is a key and one of its items, hashed; how many each row's key has had."""
        pairs = _mixed(keys + _mixed(items ^ _GOLDEN))
        # Most are known, and asking is cheaper than sorting.
        new = np.flatnonzero(~(self._seen[0].holds(pairs) | self._seen[1].holds(pairs)))
        _, first = np.unique(pairs[new], return_index=True)
        first = new[first]
        self._seen[0].add(pairs[first])
        self._counts[0].add(keys[first], np.ones(len(first)))
        return self.estimates(keys)

    def take_back(self, keys: Keys, items: Keys) -> None:
        """Count items no more of those that were added since the last rotation, at most once."""
        pairs = _mixed(keys + _mixed(items ^ _GOLDEN))
        for seen, counts in zip(self._seen, self._counts, strict=True):
            held = np.flatnonzero(seen.holds(pairs))
            _, first = np.unique(pairs[held], return_index=True)
            first = held[first]
            # What was taken back is remembered beside what was added.
            first = first[seen.add(_mixed(pairs[first] ^ _FINAL_1))]
            counts.add(keys[first], -np.ones(len(first)))

    def estimates(self, keys: Keys) -> Values:
        """How many items each key has had, less what others are likely to have added to it."""
        found = np.zeros((len(keys), 1))
        for counts in self._counts:
            # A cell that others fill differs from the average by its square root.
            noise = np.floor(np.maximum(counts.noise(), 0))
            found += np.maximum(counts.estimates(keys) - noise - 4 * np.sqrt(noise), 0)
        return np.asarray(found[:, 0])


class Heaviest:
    """The *most* heaviest keys of a stream, by space-saving over batches.

    A key that comes in takes the place of the lightest one, and its weight with it, so that a
    weight is too high by that at most, and a key above 1/most of everything is never missed.
    """

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self.keys: Keys = np.empty(0, np.uint64)
        self.weights: Values = np.empty(0)

    def add(self, keys: Keys, weights: Values) -> None:
        """Add weights to *keys*, which may repeat."""
        keys, _, groups = grouped(keys)
        weights = summed(weights, groups, len(keys))
        is_known = np.isin(keys, self.keys)
        at = np.searchsorted(self.keys, keys[is_known])
        self.weights[at] += weights[is_known]
        all_keys = np.concatenate([self.keys, keys[~is_known]])
        is_full = len(self.keys) >= self._most
        floor = float(self.weights.min()) if is_full else 0.0
        all_weights = np.concatenate([self.weights, weights[~is_known] + floor])
        kept = np.argsort(-all_weights, kind="stable")[: self._most]
        kept = kept[np.argsort(all_keys[kept])]
        self.keys, self.weights = all_keys[kept], all_weights[kept]


class Places:
    """A place each for up to 4 x *sets* keys, found again by key; who is silent gives way.

    A key's places are those of its set.  Where all four are taken by keys that were heard in the
    last *keep_s* seconds, a new key gets none, and `refused` counts it: whoever sends a million
    keys cannot push out those that were there before.
    """

    WAYS = 4
    NONE = -1

    def __init__(self, sets: int, keep_s: float) -> None:
        self._sets = sets
        self._keep_s = keep_s
        self._keys = np.zeros((sets, self.WAYS), np.uint64)
        self._heard = np.full((sets, self.WAYS), -np.inf)
        self.refused = 0

    def __len__(self) -> int:
        return self._sets * self.WAYS

    def of(self, keys: Keys, now: float) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """The place of each of *keys*, which differ, or NONE; and which of them are new."""
        sets = (keys % np.uint64(self._sets)).astype(np.intp)
        places = np.full(len(keys), self.NONE)
        is_mine = (self._keys[sets] == keys[:, None]) & np.isfinite(self._heard[sets])
        is_known = is_mine.any(axis=1)
        ways = is_mine.argmax(axis=1)
        self._heard[sets[is_known], ways[is_known]] = now
        places[is_known] = sets[is_known] * self.WAYS + ways[is_known]
        is_new = np.zeros(len(keys), np.bool_)
        waiting = np.flatnonzero(~is_known)
        # Of several new keys of one set, one is placed a round.
        for _ in range(self.WAYS):
            _, first = np.unique(sets[waiting], return_index=True)
            some = waiting[first]
            ways = self._heard[sets[some]].argmin(axis=1)
            is_free = self._heard[sets[some], ways] < now - self._keep_s
            some, ways = some[is_free], ways[is_free]
            self._keys[sets[some], ways] = keys[some]
            self._heard[sets[some], ways] = now
            places[some] = sets[some] * self.WAYS + ways
            is_new[some] = True
            waiting = waiting[places[waiting] == self.NONE]
            if not len(some):
                break
        self.refused += len(waiting)
        return places, is_new

    def find(self, keys: Keys) -> NDArray[np.intp]:
        """The place that each of *keys* has, or NONE; this keeps none of them awake."""
        sets = (keys % np.uint64(self._sets)).astype(np.intp)
        is_mine = (self._keys[sets] == keys[:, None]) & np.isfinite(self._heard[sets])
        at = sets * self.WAYS + is_mine.argmax(axis=1)
        return np.where(is_mine.any(axis=1), at, self.NONE)

    def forget(self, places: NDArray[np.intp]) -> None:
        """Free these places."""
        self._heard.reshape(-1)[places] = -np.inf
