"""The spool: frames on disk between the model server and the collector.

A directory of segments, each named by the sequence number of its first row and beginning with the
layout of its frames, so that what one model version left behind can be shipped by the next. A frame
is one write(2): the page cache survives `kill -9`, so nothing needs fsync. A frame torn by a kill
fails its checksum; it was never counted, and is cut when the spool is opened again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from coalmine.records._errors import SchemaError, SpoolInUseError
from coalmine.records._frame import Frame, Layout, first_payload, frame, scan
from coalmine.records._spool_state import (
    BEFORE,
    STATE_FILE,
    WITHIN,
    SpoolState,
    load_state,
    store_state,
)
from coalmine.records._types import SpoolStats

__all__ = ["Chunk", "Spool", "spool_stats"]

_SUFFIX = ".frames"
_SEGMENT_BYTES = 8 * 1024**2
#: What is shipped at once, about: large, since a delivery costs the server the same for any size;
#: bounded, since the other side holds all of it while it is decoded.
_CHUNK_BYTES = 2 * 1024**2
_CHUNK_ROWS = 32 * 1024


class Chunk(NamedTuple):
    """Some whole frames of one segment, to be shipped together: they stay where they are."""

    header: bytes
    """The frame with their layout."""

    path: Path
    start: int
    """Offset of the first of them in the file."""

    size: int
    first: int
    """Sequence number of their first row."""

    last: int
    is_newest: bool
    """Whether nothing was behind them when they were taken."""

    @property
    def rows(self) -> int:
        """How many rows they hold."""
        return self.last - self.first + 1

    def body(self) -> bytes:
        """The header and the frames."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return self.header + file.read(self.size)


class _Mark(NamedTuple):
    """A place between two frames of a segment."""

    offset: int
    seq: int
    """Of the first row behind it."""


@dataclass(slots=True)
class _Segment:
    path: Path
    first: int
    """Sequence number of its first row."""

    size: int
    fd: int = -1
    header: bytes = b""
    marks: deque[_Mark] = field(default_factory=deque)
    """The beginning, and where to stop on the way to its end."""

    is_ours: bool = True
    """Whether this process writes it; what another left is looked through when its turn comes."""

    def begin(self, header: bytes) -> None:
        """Note that the header is there, and nothing else yet."""
        self.header = header
        self.marks.append(_Mark(self.size, self.first))

    def mark(self, seq: int, *, coming: int = 0) -> None:
        """Note the end as a place to stop, if what is `coming` would make too much at once."""
        last = self.marks[-1]
        size = self.size - last.offset
        if size and (size + coming >= _CHUNK_BYTES or seq - last.seq >= _CHUNK_ROWS):
            self.marks.append(_Mark(self.size, seq))

    def survey(self, *, acknowledged: int) -> None:
        """Mark the whole frames that another process wrote and that are not acknowledged."""
        data = self.path.read_bytes()[: self.size]
        header = first_payload(data) or b""
        try:
            Layout.load(header)
        except SchemaError:  # then no frame of it is read, and its rows count as corrupt
            self.marks.append(_Mark(self.size, max(self.first, acknowledged + 1)))
            return
        self.header = frame(header)
        place = _Mark(len(self.header), self.first)
        if (behind := acknowledged - self.first + 1) > 0:
            skipped = scan(data, start=place.offset, max_rows=behind)
            place = _Mark(skipped.end, place.seq + skipped.rows)
        self.marks.append(place)
        while True:
            found = scan(data, start=place.offset, max_rows=_CHUNK_ROWS, max_bytes=_CHUNK_BYTES)
            if not found.starts:
                return
            place = _Mark(found.end, place.seq + found.rows)
            self.marks.append(place)


class Spool:
    """Appended to by any thread; read, acknowledged and trimmed by one.

    Segments begin with the frame `header`, which holds the layout of what is appended; a frame of
    another layout begins a segment of its own.
    """

    def __init__(self, directory: Path, *, header: bytes, max_bytes: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._lock_fd = _lock(directory)
        self._header = header
        self._max_bytes = max_bytes
        self._segment_bytes = min(_SEGMENT_BYTES, max_bytes // 4)
        self._mutex = threading.Lock()
        self._state = load_state(directory) or SpoolState()
        self._state_fd = os.open(directory / STATE_FILE, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC)
        store_state(self._state_fd, self._state)
        self._segments, self._next_seq = _recover(directory, self._state.acknowledged)
        self._bytes = sum(segment.size for segment in self._segments)
        self._active: _Segment | None = None

    def append(self, added: Frame, *, header: bytes | None = None) -> None:
        """Keep one frame, or count its rows as dropped. Does not raise."""
        with self._mutex:
            if header is not None and header is not self._header:
                self._header = header
                self._turn_page()
            if self._bytes + added.size > self._max_bytes:
                self._drop("spool_full", added.rows)
                return
            try:
                segment = self._active
                if segment is None or self._is_full(segment, added.size):
                    segment = self._rotate()
                segment.mark(self._next_seq, coming=added.size)
                self._write(segment, added.parts, size=added.size)
            except OSError:
                self._drop("write_error", added.rows)
            else:
                self._next_seq += added.rows

    def drop(self, reason: str, rows: int) -> None:
        """Count rows that never came as far as a frame."""
        with self._mutex:
            self._drop(reason, rows)

    @property
    def is_half_full(self) -> bool:
        """Whether more than half of what may wait here does."""
        return 2 * self._bytes > self._max_bytes

    def next_chunk(self) -> Chunk | None:
        """The oldest frames that are not acknowledged; None if all are."""
        while True:
            with self._mutex:
                if not self._segments:
                    return None
                head = self._segments[0]
                is_active = head is self._active
                after = self._segments[1].first if len(self._segments) > 1 else self._next_seq
                if head.is_ours and head.size > head.marks[-1].offset:
                    head.marks.append(_Mark(head.size, after))  # all there is by now
            if not head.marks:
                head.survey(acknowledged=self._state.acknowledged)
            if len(head.marks) > 1:
                start, stop = head.marks[0], head.marks[1]
                return Chunk(
                    head.header,
                    head.path,
                    start.offset,
                    stop.offset - start.offset,
                    start.seq,
                    stop.seq - 1,
                    is_newest=is_active and stop.offset == head.size,
                )
            if is_active:
                return None
            self._finish(head, lost=after - head.marks[0].seq)

    def acknowledge(self, chunk: Chunk) -> None:
        """The chunk is in the log."""
        self._pass(chunk)

    def give_up(self, chunk: Chunk, reason: str) -> None:
        """The chunk can never be shipped; its rows are counted as dropped."""
        with self._mutex:
            self._state = self._state.with_dropped(reason, chunk.rows)
        self._pass(chunk)

    def stats(self) -> SpoolStats:
        """The account of this spool."""
        with self._mutex:
            return _account(self._state, last=self._next_seq - 1)

    def close(self) -> None:
        """Release the directory; segments with nothing left to ship are removed."""
        with self._mutex:
            if self._state.acknowledged == self._next_seq - 1:
                for segment in self._segments:
                    segment.path.unlink(missing_ok=True)
                self._segments.clear()
            self._deactivate()
            for descriptor in (self._state_fd, self._lock_fd):
                os.close(descriptor)
            # What is emitted from now on is a write error, counted in memory only.
            self._state_fd = self._lock_fd = -1

    def _turn_page(self) -> None:
        """Let the next frame begin a new segment."""
        segment = self._active
        if segment is None:
            return
        self._deactivate()
        if segment.first == self._next_seq:  # no row yet: the new segment will have its name
            self._segments.remove(segment)
            self._bytes -= segment.size

    def _is_full(self, segment: _Segment, more: int) -> bool:
        # A segment without rows is never full: the next one would have the same name.
        return segment.first < self._next_seq and segment.size + more > self._segment_bytes

    def _rotate(self) -> _Segment:
        if self._lock_fd < 0:
            raise OSError("the spool is closed")
        self._deactivate()
        path = self._directory / f"{self._next_seq:020d}{_SUFFIX}"
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        segment = _Segment(path, self._next_seq, 0, os.open(path, flags, 0o644))
        try:
            self._write(segment, [self._header], size=len(self._header))
        except OSError:
            os.close(segment.fd)
            path.unlink(missing_ok=True)
            raise
        segment.begin(self._header)
        self._active = segment
        self._segments.append(segment)
        return segment

    def _write(self, segment: _Segment, parts: Sequence[Any], *, size: int) -> None:
        try:
            written = os.writev(segment.fd, parts)
        except OSError:
            os.ftruncate(segment.fd, segment.size)
            raise
        if written != size:  # the disk was full half-way
            os.ftruncate(segment.fd, segment.size)
            raise OSError("short write")
        segment.size += written
        self._bytes += written

    def _deactivate(self) -> None:
        if self._active is not None:
            os.close(self._active.fd)
            self._active = None

    def _drop(self, reason: str, rows: int) -> None:
        self._state = self._state.with_dropped(reason, rows)
        self._store()

    def _pass(self, chunk: Chunk) -> None:
        with self._mutex:
            self._state = self._state.with_acknowledged(chunk.last)
            self._store()
            self._segments[0].marks.popleft()

    def _finish(self, segment: _Segment, *, lost: int) -> None:
        """Remove a segment of which nothing more can be read; `lost` rows of it were spoilt."""
        with self._mutex:
            if lost > 0:
                state = self._state.with_dropped("corrupt", lost)
                self._state = state.with_acknowledged(state.acknowledged + lost)
                self._store()
            self._segments.popleft()
            self._bytes -= segment.size
        segment.path.unlink(missing_ok=True)

    def _store(self) -> None:
        with contextlib.suppress(OSError):  # then the count is right until the process ends
            store_state(self._state_fd, self._state)


def spool_stats(directory: Path) -> SpoolStats:
    """The account of a spool, read from its files: also of a running or a dead emitter.

    A directory without a spool gives zeros.
    """
    while True:
        state = load_state(directory)
        if state is None:
            return SpoolStats()
        newest = max(directory.glob(f"*{_SUFFIX}"), default=None)
        if newest is None:
            # Rows acknowledged since the state was read took their segment with them.
            again = load_state(directory) or state
            return _account(again, last=again.acknowledged)
        try:
            last = _last_seq(newest.read_bytes(), first=int(newest.stem))
        except FileNotFoundError:  # acknowledged and removed under our eyes
            continue
        return _account(state, last=max(last, state.acknowledged))


def _account(state: SpoolState, *, last: int) -> SpoolStats:
    dropped = state.dropped
    return SpoolStats(
        emitted_rows=last + sum(dropped[reason] for reason in BEFORE),
        acknowledged_rows=state.acknowledged - sum(dropped[reason] for reason in WITHIN),
        dropped_rows=sum(dropped.values()),
        pending_rows=last - state.acknowledged,
        dropped=dropped,
        emitter=state.emitter,
    )


def _lock(directory: Path) -> int:
    descriptor = os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SpoolInUseError(f"{directory}: another process emits into this spool") from None
    return descriptor


def _recover(directory: Path, acknowledged: int) -> tuple[deque[_Segment], int]:
    """The segments that still hold something to ship, and the next sequence number."""
    paths = sorted(directory.glob(f"*{_SUFFIX}"))
    segments = [
        _Segment(path, int(path.stem), path.stat().st_size, is_ours=False) for path in paths
    ]
    if not segments:
        return deque(), acknowledged + 1
    newest = segments[-1]
    data = newest.path.read_bytes()
    newest_end = _last_seq(data, first=newest.first)
    last = max(acknowledged, newest_end)
    if newest_end < newest.first:
        # Killed before its first row: the next segment will have the same name.
        segments.pop().path.unlink()
    else:
        newest.size = scan(data).end
        os.truncate(newest.path, newest.size)
    ends = [*(segment.first - 1 for segment in segments[1:]), last][: len(segments)]
    kept: deque[_Segment] = deque()
    for segment, end in zip(segments, ends, strict=True):
        if end > acknowledged:
            kept.append(segment)
        else:
            segment.path.unlink()
    return kept, last + 1


def _last_seq(data: bytes, *, first: int) -> int:
    header = first_payload(data)
    return first - 1 if header is None else first - 1 + scan(data, start=len(frame(header))).rows
