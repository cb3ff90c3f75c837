"""Where a shipper delivers: a collector's URL, or a log that this process writes itself."""

from __future__ import annotations

import http.client
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from coalmine.records._decode import FRAMES_TYPE, parse_frames
from coalmine.records._errors import (
    LogError,
    LogFullError,
    LogUnavailableError,
    MalformedBatchError,
)
from coalmine.records._log import RecordLog, open_log
from coalmine.records._post import Poster
from coalmine.records._segment import Chunk
from coalmine.records._types import BatchId

__all__ = ["Delivery", "Sink", "open_sink"]

#: What SQLite says of a file that somebody else writes to just now.
_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED")
_TIMEOUT = 10.0
#: Bytes that are read of a file at once: few enough to be in the core's cache when they are sent.
_BUFFER = 512 * 1024
#: Answers that say the batch itself is wrong: sending it again cannot help.
_REJECTIONS = (400, 413, 422)


class Delivery(NamedTuple):
    """What became of a batch."""

    taken: bool = False
    rejected: bool = False
    """The batch itself is wrong; neither taken nor rejected: to be sent again."""

    why: str = ""
    retry_after: float = 0.0
    """Seconds the sink asks to wait."""


class Sink(Protocol):
    """A place for records; not for more than one thread, but for `abort`."""

    def deliver(self, chunk: Chunk, *, batch_id: BatchId, dropped: int) -> Delivery:
        """Hand over a chunk; once it is taken, it is durable. `dropped` rows came to nothing."""
        ...

    def abort(self) -> None:
        """From another thread: end a `deliver` that waits, if that can be."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


def open_sink(url: str) -> Sink:
    """The sink at `http(s)://host:port` or `sqlite:///path`.

    ValueError for anything else; LogError or OSError for a file that cannot be a log.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        return _Collector(url)
    if scheme == "sqlite":
        return _Log(url)
    raise ValueError(
        f"{url!r} is nowhere to keep records; allowed: sqlite:///path and http://host:port"
    )


class _Collector:
    def __init__(self, url: str) -> None:
        self._poster = Poster(f"{url.rstrip('/')}/v1/records", timeout=_TIMEOUT)
        self._buffer = bytearray(_BUFFER)

    def deliver(self, chunk: Chunk, *, batch_id: BatchId, dropped: int) -> Delivery:
        headers = {
            "content-type": FRAMES_TYPE,
            "x-coalmine-batch": str(batch_id),
            "x-coalmine-dropped": str(dropped),
        }
        try:
            answer = self._poster.post(
                chunk.header,
                lambda: chunk.pieces(self._buffer),
                size=len(chunk.header) + chunk.size,
                headers=headers,
            )
        except (OSError, http.client.HTTPException):
            return Delivery(why="no connection to the collector")
        return Delivery(
            taken=answer.status == 200,
            rejected=answer.status in _REJECTIONS,
            why=f"the collector answers {answer.status}",
            retry_after=answer.retry_after or 0.0,
        )

    def abort(self) -> None:
        self._poster.abort()

    def close(self) -> None:
        self._poster.close()


class _Log:
    """A log on this machine. While it cannot be opened or written, its records wait."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._log: RecordLog | None = None
        try:
            self._log = open_log(url)
        except LogFullError:
            pass  # there may be space later, and the records wait
        except LogUnavailableError as error:
            if getattr(error.__cause__, "sqlite_errorname", "") not in _PASSING:
                raise  # not a database, or not ours to write

    def deliver(self, chunk: Chunk, *, batch_id: BatchId, dropped: int) -> Delivery:
        try:
            if self._log is None:
                self._log = open_log(self._url)
            batch = parse_frames(chunk.body(), rows=chunk.rows)
            self._log.append(batch, batch_id=batch_id, dropped=dropped)
        except MalformedBatchError as error:
            return Delivery(rejected=True, why=str(error))
        except (LogError, OSError) as error:
            return Delivery(why=f"{self._url}: {error}")
        return Delivery(taken=True)

    def abort(self) -> None:
        """A write ends by itself; after it the thread sees that it is to stop."""

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
