"""Which request ids the log has seen, in eight bytes each.

A B-tree over random ids would dirty a page per request; a sorted array of fingerprints per batch is
written in one go, and is only read by the process that takes labels.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["Fingerprints", "KnownRequests", "fingerprints"]

Fingerprints = NDArray[np.uint64]

#: 256 MiB of them; beyond, the oldest ids are forgotten, and their labels count as unknown.
_LIMIT = 2**25

# Multilinear hashing: a random value per byte, weighted by powers of an odd number per position.
# The numbers are stored in the log, so the seed is for ever.
_BYTES = np.random.default_rng(0xC0A1).integers(1, 2**63, 256, np.uint64)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
#: Bytes looked up at a time: eight times as many come of it, which have to stay in the cache.
_BLOCK = 16_384


def fingerprints(ids: pa.StringArray) -> Fingerprints:
    """64 bits for each string, the same in every process and release.

    >>> a, b, again = fingerprints(pa.array(["a", "b", "a"]))
    >>> bool(a == again), bool(a == b)
    (True, False)
    """
    offsets, data = _buffers(ids)
    lengths = np.diff(offsets)
    starts = offsets[:-1]
    result = lengths.astype(np.uint64)
    if len(data) and (lengths == lengths[0]).all():  # UUIDs, say: a tenth of the work
        length = int(lengths[0])
        powers = _powers(length)
        step = max(1, _BLOCK // length)
        for first in range(0, len(lengths), step):
            part = data[first * length : (first + step) * length]
            result[first : first + step] += np.take(_BYTES, part).reshape(-1, length) @ powers
    elif len(data):
        position = np.arange(len(data)) - np.repeat(starts, lengths)
        terms = _BYTES[data] * _powers(lengths.max())[position]
        filled = lengths > 0
        result[filled] += np.add.reduceat(terms, starts[filled])
    result ^= result >> np.uint64(32)
    return result * _MULTIPLIER


def _powers(count: int) -> NDArray[np.uint64]:
    return np.multiply.accumulate(np.full(int(count), _MULTIPLIER))


def _buffers(ids: pa.StringArray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Where each string lies in its bytes, without copying them."""
    _, offsets, data = ids.buffers()
    if not len(ids):
        return np.zeros(1, np.int64), np.empty(0, np.uint8)
    places = np.frombuffer(offsets, np.int32)[ids.offset : ids.offset + len(ids) + 1]
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
