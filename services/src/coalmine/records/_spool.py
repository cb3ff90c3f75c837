"""The spool: frames on disk between the model server and the collector.

A directory of segments, each named by the sequence number of its first row and beginning with the
layout of its frames, so that what one model version left behind can be shipped by the next. It is
mapped into memory: frames are copied there, and shipped from there, without asking the system. The
page cache survives `kill -9`, so nothing needs fsync. A frame torn by a kill fails its checksum; it
was never counted, and is cut when the spool is opened again.

A segment that has been shipped is written over by a later one, and stays mapped until then: few
pages, which the system and the caches have at hand, take a quarter of the time of fresh ones. What
is left of its former life behind the last frame has sequence numbers that are too low.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from pathlib import Path

from coalmine.records._errors import SpoolInUseError
from coalmine.records._framing import Frame
from coalmine.records._segment import (
    SPARE,
    SUFFIX,
    Chunk,
    Mark,
    Segment,
    begun,
    last_seq,
    recover,
    rewritten,
)
from coalmine.records._spool_state import (
    BEFORE,
    STATE_FILE,
    WITHIN,
    SpoolState,
    load_state,
    store_state,
)
from coalmine.records._types import SpoolStats

__all__ = ["Spool", "spool_stats"]

_SEGMENT_BYTES = 4 * 1024**2
#: Bytes of segments that are kept at hand: of those that were shipped, to be written over, and of
#: those that wait; what waits behind them is read from its file when its turn comes.
_AT_HAND = 8 * _SEGMENT_BYTES


class Spool:
    """Appended to by any thread; read, acknowledged and trimmed by one.

    Segments begin with the frame `header`, which holds the layout of what is appended; a frame of
    another layout begins a segment of its own.
    """

    def __init__(self, directory: Path, *, header: Frame, max_bytes: int) -> None:
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
        self._segments, self._next_seq = recover(directory, self._state.acknowledged)
        self._bytes = sum(segment.room for segment in self._segments)
        self._active: Segment | None = None
        self._spares: list[Segment] = []
        self.filling = threading.Event()
        """Set when it falls behind."""

    def append(self, added: Frame, *, header: Frame | None = None) -> None:
        """Keep one frame, or count its rows as dropped. Does not raise."""
        with self._mutex:
            if header is not None and header is not self._header:
                self._header = header
                self._turn_page()
            size = added.size
            segment = self._active
            try:
                if segment is None or segment.size + size > segment.room:
                    segment = self._rotate(size)
                if segment is None:
                    self._drop("spool_full", added.rows)
                    return
                segment.mark(self._next_seq, coming=size)
                segment.write(added.placed(self._next_seq), size)
            except OSError:
                self._drop("write_error", added.rows)
            else:
                self._next_seq += added.rows

    def drop(self, reason: str, rows: int) -> None:
        """Count rows that never came as far as a frame."""
        with self._mutex:
            self._drop(reason, rows)

    @property
    def is_full(self) -> bool:
        """Whether the next frame would be dropped; need not be right to the last byte."""
        return self._active is None and self._bytes + self._segment_bytes > self._max_bytes

    @property
    def is_behind(self) -> bool:
        """Whether so much waits that it should be shipped without a pause."""
        return 2 * self._bytes > min(self._max_bytes, _AT_HAND)

    def next_chunk(self) -> Chunk | None:
        """The oldest frames that are not acknowledged; None if all are."""
        while True:
            with self._mutex:
                if not self._segments:
                    self._let_go()
                    return None
                head = self._segments[0]
                is_active = head is self._active
                after = self._segments[1].first if len(self._segments) > 1 else self._next_seq
                if head.is_ours and head.size > head.marks[-1].offset:
                    head.marks.append(Mark(head.size, after))  # all there is by now
            if not head.marks:
                head.survey(acknowledged=self._state.acknowledged)
            if len(head.marks) > 1:
                start, stop = head.marks[0], head.marks[1]
                return Chunk(
                    head,
                    start.offset,
                    stop.offset - start.offset,
                    start.seq,
                    stop.seq - 1,
                    is_newest=is_active and stop.offset == head.size,
                )
            if is_active:
                self._let_go()
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
            self._active = None
            for segment in self._segments:
                segment.close()
            while self._spares:
                self._spares.pop().path.unlink(missing_ok=True)
            for descriptor in (self._state_fd, self._lock_fd):
                os.close(descriptor)
            # What is emitted from now on is a write error, counted in memory only.
            self._state_fd = self._lock_fd = -1

    def _turn_page(self) -> None:
        """Let the next frame begin a new segment."""
        segment, self._active = self._active, None
        if segment is None:
            return
        segment.finish()
        if segment.first == self._next_seq:  # no row: the new one will have its name
            self._segments.remove(segment)
            self._bytes -= segment.room
            segment.path.unlink()

    def _rotate(self, coming: int) -> Segment | None:
        """Begin a segment with room for a frame of so many bytes; None if the spool is full."""
        if self._lock_fd < 0:
            raise OSError("the spool is closed")
        self._turn_page()
        needed = self._header.size + coming
        size = max(self._segment_bytes, needed)
        if self._bytes + size > self._max_bytes:
            return None
        path = self._directory / f"{self._next_seq:020d}{SUFFIX}"
        mapped = self._bytes <= _AT_HAND
        try:
            try:
                if self._spares and size == self._segment_bytes:
                    segment = rewritten(self._spares.pop(), path, self._next_seq, mapped=mapped)
                else:
                    segment = begun(path, self._next_seq, size, mapped=mapped)
            except OSError:  # what is left of the disk may do for this frame
                path.unlink(missing_ok=True)
                segment = begun(path, self._next_seq, needed, mapped=mapped)
            try:
                segment.begin(self._header.tobytes(segment.first))
            except OSError:
                segment.release()
                raise
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._active = segment
        self._segments.append(segment)
        self._bytes += segment.room
        if self.is_behind:
            self.filling.set()
        return segment

    def _let_go(self) -> None:
        """All is shipped: the process need not hold what it may write over later."""
        for spare in self._spares:
            spare.release()

    def _drop(self, reason: str, rows: int) -> None:
        self._state = self._state.with_dropped(reason, rows)
        self._store()

    def _pass(self, chunk: Chunk) -> None:
        with self._mutex:
            self._state = self._state.with_acknowledged(chunk.last)
            self._store()
            self._segments[0].marks.popleft()

    def _finish(self, segment: Segment, *, lost: int) -> None:
        """Remove a segment of which nothing more can be read; `lost` rows of it were spoilt."""
        with self._mutex:
            if lost > 0:
                state = self._state.with_dropped("corrupt", lost)
                self._state = state.with_acknowledged(state.acknowledged + lost)
                self._store()
            self._segments.popleft()
            self._bytes -= segment.room
            kept = (len(self._spares) + 1) * segment.room
            is_usual = segment.room == self._segment_bytes
            if is_usual and kept <= min(_AT_HAND, self._max_bytes - self._bytes):
                segment.path = segment.path.rename(segment.path.with_suffix(SPARE))
                self._spares.append(segment)
                return
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
        newest = max(directory.glob(f"*{SUFFIX}"), default=None)
        if newest is None:
            # Rows acknowledged since the state was read took their segment with them.
            again = load_state(directory) or state
            return _account(again, last=again.acknowledged)
        try:
            last = last_seq(newest.read_bytes(), first=int(newest.stem))
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
