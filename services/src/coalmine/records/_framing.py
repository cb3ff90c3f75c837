"""Framing: payloads one behind the other in a file, so that a torn or a stale one is told.

A frame is `length, top, rows, seq, check, payload`. `seq` is the sequence number of its first row
and grows for ever: in a file that is written over, what is left of its former life has the wrong
one. `check` is a CRC-32 of the prefix and of the payload's first `top` bytes; the bytes behind
those, tensors as they are in memory, go into it as the sum of their 64-bit words, which takes an
eighth of the time and misses no torn, zeroed or flipped word.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

__all__ = ["PREFIX", "Frame", "Scan", "first_payload", "framed", "scan"]

_PLACE = struct.Struct("<IIIQ")  # length of the payload, top of it, rows, seq
_CHECK = struct.Struct("<I")
#: Bytes in front of the payload.
PREFIX = _PLACE.size + _CHECK.size

_SUM = struct.Struct("<Q")
#: A payload of fewer bytes is written in one piece and checked by CRC alone: that costs less.
_SMALL = 16 * 1024
#: More pieces than these are copied into one: the system takes no thousand at once.
_PIECES = 64


class Frame(NamedTuple):
    """A payload in pieces, to become a frame where it is written."""

    parts: Sequence[Any]
    length: int
    top: int
    rows: int
    check: int
    """Of the payload."""

    @property
    def size(self) -> int:
        """Bytes of the whole frame."""
        return self.length + PREFIX

    def placed(self, seq: int) -> list[Any]:
        """The pieces of the frame whose first row has this sequence number."""
        place = _PLACE.pack(self.length, self.top, self.rows, seq)
        return [place + _CHECK.pack(crc32(place, self.check)), *self.parts]

    def tobytes(self, seq: int = 0) -> bytes:
        """The frame in one piece."""
        return b"".join(self.placed(seq))


class Scan(NamedTuple):
    """The whole frames at the beginning of some bytes."""

    starts: list[int]
    """Where each frame begins."""

    rows: int
    end: int
    """Where the last whole frame ends; beyond it is a torn frame, or nothing."""


def framed(top: bytes, bulk: Sequence[Any] = (), *, rows: int = 0) -> Frame:
    """The frame of a payload: its top, and what lies behind that in pieces of bytes."""
    length = len(top)
    for part in bulk:
        length += len(part)
    if length < _SMALL or not bulk:
        payload = b"".join((top, *bulk)) if bulk else top
        return Frame((payload,), length, length, rows, crc32(payload))
    if len(bulk) > _PIECES or any(len(part) % 8 for part in bulk[:-1]):
        bulk = (b"".join(bulk),)
    return Frame((top, *bulk), length, len(top), rows, _checked(top, bulk))


def first_payload(data: bytes, *, seq: int | None = None) -> bytes | None:
    """The payload of the first frame, None if that is torn or stale."""
    found = scan(data, seq=seq, max_frames=1)
    return data[PREFIX : found.end] if found.starts else None


def scan(
    data: bytes | memoryview,
    *,
    start: int = 0,
    seq: int | None = None,
    max_rows: int = 2**62,
    max_bytes: int = 2**62,
    max_frames: int = 2**62,
) -> Scan:
    """Find frames from `start` until one is torn or a bound is exceeded (but at least one).

    `seq` is what the first of them must have, and those behind it accordingly; None: anything.
    """
    view = memoryview(data)
    starts: list[int] = []
    rows, position, end = 0, start, len(view)
    while position + PREFIX <= end and len(starts) < max_frames:
        length, top, count, number = _PLACE.unpack_from(view, position)
        begin = position + PREFIX
        stop = begin + length
        if not 1 <= top <= length or stop > end or (seq is not None and number != seq + rows):
            break
        behind = (view[begin + top : stop],) if top < length else ()
        check = crc32(
            view[position : position + _PLACE.size], _checked(view[begin : begin + top], behind)
        )
        if check != _CHECK.unpack_from(view, position + _PLACE.size)[0]:
            break
        if starts and (rows + count > max_rows or stop - start > max_bytes):
            break
        starts.append(position)
        rows += count
        position = stop
    return Scan(starts, rows, position)


def _checked(top: bytes | memoryview, bulk: Sequence[Any]) -> int:
    check = crc32(top)
    return crc32(_SUM.pack(_sum(bulk)), check) if bulk else check


def _sum(parts: Sequence[Any]) -> int:
    """Of the words of 64 bits, the last filled up with zeros; only the last part may end in one."""
    total = 0
    for part in parts:
        words = len(part) // 8
        if words:
            total += int(np.add.reduce(np.frombuffer(part, np.uint64, words)))
        total += int.from_bytes(part[8 * words :], "little")
    return total & 0xFFFF_FFFF_FFFF_FFFF
