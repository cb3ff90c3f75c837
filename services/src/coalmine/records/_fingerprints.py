"""Which request ids the log has seen, in eight bytes each.

A B-tree over random ids would dirty a page per request; a sorted array of fingerprints per batch is
written in one go, and is only read by the process that takes labels.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["Fingerprints", "KnownRequests", "distinct", "fingerprints", "texts_of"]

Fingerprints = NDArray[np.uint64]

#: 256 MiB of them; beyond, the oldest ids are forgotten, and their labels count as unknown.
_LIMIT = 2**25

# Multilinear hashing: a random value per byte, weighted by powers of an odd number per position.
# The numbers are stored in the log, so the seed is for ever.
_BYTES = np.random.default_rng(0xC0A1).integers(1, 2**63, 256, np.uint64)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
#: Bytes looked up at a time: four times as many come of it, which have to stay in the cache.
_BLOCK = 32_768
#: The same for two bytes at once, the first in the lower half: half the work.
_PAIRS = (_BYTES[:, None] * _MULTIPLIER + _BYTES).ravel()


def fingerprints(ids: pa.StringArray) -> Fingerprints:
    """64 bits for each string, the same in every process and release.

    >>> a, b, again = fingerprints(pa.array(["a", "b", "a"]))
    >>> bool(a == again), bool(a == b)
    (True, False)
    """
    places, data = texts_of(ids)
    lengths = np.diff(places)
    result = lengths.astype(np.uint64)
    if len(data) and (lengths == lengths[0]).all():  # UUIDs, say: a twentieth of the work
        length = int(lengths[0])
        step = max(1, _BLOCK // length)
        for first in range(0, len(lengths), step):
            part = data[first * length : (first + step) * length].reshape(-1, length)
            result[first : first + step] += _sums(part)
    elif len(data):
        position = np.arange(len(data)) - np.repeat(places[:-1], lengths)
        terms = _BYTES[data] * _powers(int(lengths.max()))[position]
        filled = lengths > 0
        result[filled] += np.add.reduceat(terms, places[:-1][filled])
    result ^= result >> np.uint64(32)
    return result * _MULTIPLIER


def distinct(hashes: Fingerprints) -> Fingerprints:
    """Each of them once, sorted. `np.unique` takes three times as long for a thousand."""
    ordered = np.sort(hashes)
    differs = np.empty(len(ordered), np.bool_)
    differs[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=differs[1:])
    return ordered[differs]


def _sums(texts: NDArray[np.uint8]) -> Fingerprints:
    """The sum over the bytes of each text, [texts, length]."""
    length = texts.shape[1]
    powers = _powers(length)
    if length % 2:
        last: Fingerprints = _BYTES[texts[:, -1]] * powers[-1]
        if length > 1:
            last += _sums(np.ascontiguousarray(texts[:, :-1]))
        return last
    sums: Fingerprints = np.take(_PAIRS, texts.view("<u2")) @ powers[::2]
    return sums


def _powers(count: int) -> NDArray[np.uint64]:
    return np.multiply.accumulate(np.full(count, _MULTIPLIER))


def texts_of(texts: pa.StringArray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Where each string begins, and the last ends, in their bytes, which are not copied."""
    _, offsets, data = texts.buffers()
    if not len(texts):
        return np.zeros(1, np.int64), np.empty(0, np.uint8)
    places = np.frombuffer(offsets, np.int32, len(texts) + 1, 4 * texts.offset)
    whole = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return places.astype(np.int64) - places[0], whole[places[0] : places[-1]]


class KnownRequests:
    """A growing set of fingerprints: sorted runs, merged when two are of a size."""

    def __init__(self) -> None:
        self._runs: list[Fingerprints] = []

    def add(self, run: Fingerprints) -> None:
        """Add sorted fingerprints, newer than all before."""
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            newer, older = self._runs.pop(), self._runs.pop()
            self._runs.append(np.sort(np.concatenate([older, newer])))
        while len(self._runs) > 1 and sum(map(len, self._runs)) > _LIMIT:
            self._runs.pop(0)

    def contains(self, wanted: Fingerprints) -> NDArray[np.bool_]:
        """Which of them are in the set."""
        found = np.zeros(len(wanted), np.bool_)
        for run in self._runs:
            places = np.searchsorted(run, wanted).clip(max=max(0, len(run) - 1))
            if len(run):
                found |= run[places] == wanted
        return found
