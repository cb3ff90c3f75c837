"""Segments: the files of a spool, and where to stop in them on the way to the collector."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from coalmine.records._errors import SchemaError
from coalmine.records._frame import Layout
from coalmine.records._framing import PREFIX, first_payload, scan

__all__ = [
    "SPARE",
    "SUFFIX",
    "Chunk",
    "Mark",
    "Segment",
    "begun",
    "last_seq",
    "recover",
    "rewritten",
]

SUFFIX = ".frames"
#: Of a segment that was shipped, to be written over.
SPARE = ".spare"
#: What is shipped at once, about: large, since a delivery costs the server the same for any size;
#: bounded, since the other side holds all of it while it is decoded.
_CHUNK_BYTES = 4 * 1024**2
_CHUNK_ROWS = 64 * 1024


class Chunk(NamedTuple):
    """Some whole frames of one segment, to be shipped together: they stay where they are."""

    segment: Segment
    start: int
    """Offset of the first of them in the file."""

    size: int
    first: int
    """Sequence number of their first row."""

    last: int
    is_newest: bool
    """Whether nothing was behind them when they were taken."""

    @property
    def header(self) -> bytes:
        """The frame with their layout."""
        return self.segment.header

    @property
    def rows(self) -> int:
        """How many rows they hold."""
        return self.last - self.first + 1

    def pieces(self, buffer: bytearray) -> Iterator[memoryview]:
        """The frames: where they are written, or else from their file by way of a buffer."""
        at, end = self.start, self.start + self.size
        memory = self.segment.map
        if memory is not None:
            yield memoryview(memory)[at:end]
            return
        view = memoryview(buffer)
        with self.segment.path.open("rb", buffering=0) as file:
            file.seek(at)
            while at < end:
                read = file.readinto(view[: end - at])
                if not read:
                    raise OSError(f"{self.segment.path} is shorter than it was")
                yield view[:read]
                at += read

    def body(self) -> bytes:
        """The header and the frames."""
        with self.segment.path.open("rb") as file:
            file.seek(self.start)
            return self.header + file.read(self.size)


class Mark(NamedTuple):
    """A place between two frames of a segment."""

    offset: int
    seq: int
    """Of the first row behind it."""


@dataclass(slots=True)
class Segment:
    path: Path
    first: int
    """Sequence number of its first row."""

    size: int
    """Where its last frame ends; behind it the file is empty, or stale."""

    room: int
    """Bytes of the file."""

    map: mmap.mmap | None = None
    """The file as memory, where it is written and shipped, if it is one of those at hand. Others
    are written and read as files: to touch pages for the first time takes longer than that."""

    fd: int = -1
    """Of the file, as long as it is written to without a map."""

    header: bytes = b""
    marks: deque[Mark] = field(default_factory=deque)
    """The beginning, and where to stop on the way to its end."""

    is_ours: bool = True
    """Whether this process writes it; what another left is looked through when its turn comes."""

    def begin(self, header: bytes) -> None:
        """Put the header in front, and nothing else yet."""
        self.write([header], len(header))
        self.header = header
        self.marks.append(Mark(self.size, self.first))

    def write(self, parts: Sequence[Any], size: int) -> None:
        """Put pieces of together `size` bytes at the end, where there must be room for them.

        OSError if they could not be written; then the next ones go to their place.
        """
        memory, at = self.map, self.size
        if memory is None:
            if os.pwritev(self.fd, parts, at) != size:
                raise OSError("short write")
        else:
            for part in parts:
                end = at + len(part)
                memory[at:end] = part
                at = end
        self.size += size

    def finish(self) -> None:
        """Nothing more is written."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def release(self) -> None:
        """Not at hand any more; nothing more is written."""
        self.finish()
        self.map = None  # unmapped with the last view of it

    def close(self) -> None:
        """Nothing more is ever written: the file ends where its last frame does."""
        self.release()
        with contextlib.suppress(OSError):  # then it is cut by whoever opens the spool
            os.truncate(self.path, self.size)

    def mark(self, seq: int, *, coming: int = 0) -> None:
        """Note the end as a place to stop, if what is `coming` would make too much at once."""
        last = self.marks[-1]
        size = self.size - last.offset
        if size and (size + coming >= _CHUNK_BYTES or seq - last.seq >= _CHUNK_ROWS):
            self.marks.append(Mark(self.size, seq))

    def survey(self, *, acknowledged: int) -> None:
        """Mark the whole frames that another process wrote and that are not acknowledged."""
        data = self.path.read_bytes()[: self.size]
        payload = first_payload(data, seq=self.first) or b""
        try:
            Layout.load(payload)
        except SchemaError:  # then no frame of it is read, and its rows count as corrupt
            self.marks.append(Mark(self.size, max(self.first, acknowledged + 1)))
            return
        self.header = data[: PREFIX + len(payload)]
        place = Mark(len(self.header), self.first)
        if (behind := acknowledged - self.first + 1) > 0:
            skipped = scan(data, start=place.offset, seq=place.seq, max_rows=behind)
            place = Mark(skipped.end, place.seq + skipped.rows)
        self.marks.append(place)
        while True:
            found = scan(
                data,
                start=place.offset,
                seq=place.seq,
                max_rows=_CHUNK_ROWS,
                max_bytes=_CHUNK_BYTES,
            )
            if not found.starts:
                return
            place = Mark(found.end, place.seq + found.rows)
            self.marks.append(place)


def begun(path: Path, first: int, size: int, *, mapped: bool) -> Segment:
    """A segment in a new file, or in one that has been written to before.

    The disk has space for all of it from the start: what is kept in it later cannot fail for want
    of that, which to mapped memory would be the end of the process. OSError if it has not.
    """
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        if os.fstat(fd).st_size < size:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, size)
            elif os.pwrite(fd, bytes(size), 0) != size:  # macOS has no such call
                raise OSError("short write")
        segment = Segment(path, first, 0, size, mmap.mmap(fd, size) if mapped else None)
    except BaseException:
        os.close(fd)
        raise
    if mapped:
        os.close(fd)
    else:
        segment.fd = fd
    return segment


def rewritten(spare: Segment, path: Path, first: int, *, mapped: bool) -> Segment:
    """A segment in the file of a spare one, and in its map if it has one. OSError if it is gone."""
    spare.path.rename(path)
    if spare.map is None:
        return begun(path, first, spare.room, mapped=mapped)
    return Segment(path, first, 0, spare.room, spare.map)


def recover(directory: Path, acknowledged: int) -> tuple[deque[Segment], int]:
    """The segments that still hold something to ship, and the next sequence number."""
    for spare in directory.glob(f"*{SPARE}"):
        spare.unlink()
    paths = sorted(directory.glob(f"*{SUFFIX}"))
    segments = [
        Segment(path, int(path.stem), size, size, is_ours=False)
        for path in paths
        for size in (path.stat().st_size,)
    ]
    if not segments:
        return deque(), acknowledged + 1
    newest = segments[-1]
    data = newest.path.read_bytes()
    newest_end = last_seq(data, first=newest.first)
    last = max(acknowledged, newest_end)
    if newest_end < newest.first:
        # Killed before its first row: the next segment will have the same name.
        segments.pop().path.unlink()
    else:
        newest.size = newest.room = scan(data, seq=newest.first).end
        os.truncate(newest.path, newest.size)
    ends = [*(segment.first - 1 for segment in segments[1:]), last][: len(segments)]
    kept: deque[Segment] = deque()
    for segment, end in zip(segments, ends, strict=True):
        if end > acknowledged:
            kept.append(segment)
        else:
            segment.path.unlink()
    return kept, last + 1


def last_seq(data: bytes, *, first: int) -> int:
    found = scan(data, seq=first)
    return first - 1 + found.rows
