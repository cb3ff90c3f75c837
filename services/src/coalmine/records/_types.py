"""The values that cross this package's door."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "CALLER_BLOCKS",
    "CALLER_NONE",
    "CALLER_UNKNOWN",
    "AnsweredRequest",
    "BatchId",
    "EmitterState",
    "InferenceRecord",
    "Label",
    "LabelCounts",
    "LogStats",
    "NewBatch",
    "Protocol",
    "SpoolStats",
]

Protocol = Literal["v1", "v2", "grpc"]

#: Callers are recorded by blocks, 0 to 4095: enough to see by how much they differ, too few to tell
#: one of them from the others.
CALLER_BLOCKS = 4096
#: A request that said no caller, so that each of these is dealt out alone.
CALLER_NONE = -1
#: Nobody looked for the caller.
CALLER_UNKNOWN = -2

_BATCH_ID = re.compile(r"([A-Za-z0-9._-]{1,128}):([0-9]{1,18})-([0-9]{1,18})")


class InferenceRecord(NamedTuple):
    """One request as the model server saw it; becomes one row per instance.

    A named tuple, not a frozen dataclass: one is made per request, and it costs a third.
    """

    request_id: str
    time: float
    """Arrival, seconds since the epoch."""

    protocol: Protocol
    latency_us: int
    """From the last byte of the request to the first of the response."""

    inputs: Mapping[str, NDArray[Any]]
    """What the network was given, by tensor name; ignored for a failed request."""

    outputs: Mapping[str, NDArray[Any]] | None
    """What it answered; None for a failed request, which becomes one row without values."""

    status: int = 200
    """HTTP status, also of a gRPC call (its nearest)."""

    queue_us: int = 0
    """Part of the latency spent waiting for a runner."""

    batch_rows: int = 1
    """Rows of the batch the request was run in, its own and others'. Of a request that was shed:
    how many were, at once and alike, that this record stands for."""

    error: str | None = None
    caller: int = CALLER_UNKNOWN
    """The block of callers it is of, `CALLER_NONE` or `CALLER_UNKNOWN`."""


class AnsweredRequest(NamedTuple):
    """One of the requests that were answered together, without what they share."""

    request_id: str
    time: float
    """Arrival, seconds since the epoch."""

    protocol: Protocol
    latency_us: int
    rows: int
    """Its instances, which follow those of the requests before it."""

    queue_us: int = 0
    caller: int = CALLER_UNKNOWN


#: The same as a plain tuple, which is made in a fifth of the time.
AnsweredTuple = tuple[str, float, Protocol, int, int, int, int]


class Label(NamedTuple):
    """The truth about one row of one request, delivered later."""

    request_id: str
    label: str
    """Name of the class."""

    time: float
    """When the truth was established, seconds since the epoch; the newest wins."""

    row: int = 0
    offset: int = 0
    """Position among the log's labels, from 1; 0 for a label that is not in the log."""


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """What became of delivered labels; the four add up to what was delivered."""

    accepted: int = 0
    """First label of a row whose record is in the log."""

    repeated: int = 0
    """Says what is already known, or is older than what is known; not stored again."""

    corrected: int = 0
    """Replaces another label of the same row; both stay in the history."""

    unknown: int = 0
    """First label of a request not in the log; kept, since the record may still come."""


class BatchId(NamedTuple):
    """Which rows of which emitter a batch holds, by their sequence numbers, from 1.

    >>> BatchId.parse("a1:5-12")
    BatchId(emitter='a1', first=5, last=12)
    >>> str(BatchId("a1", 5, 12)), BatchId("a1", 5, 12).rows
    ('a1:5-12', 8)
    """

    emitter: str
    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> BatchId:
        """Read `<emitter>:<first>-<last>`; ValueError if it is not that."""
        match = _BATCH_ID.fullmatch(text)
        if match is None or not 1 <= int(match[2]) <= int(match[3]):
            raise ValueError(f"{text[:80]!r} is not a batch id: <emitter>:<first>-<last>, from 1")
        return cls(match[1], int(match[2]), int(match[3]))

    @property
    def rows(self) -> int:
        """How many rows the batch holds."""
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.emitter}:{self.first}-{self.last}"


class NewBatch(NamedTuple):
    """A batch on its way into a log."""

    batch: pa.RecordBatch
    batch_id: BatchId
    key: str | None = None
    """What decides on its partition; None: its model's name."""

    dropped: int = 0
    """Rows that its emitter could not keep so far."""


@dataclass(frozen=True, slots=True)
class EmitterState:
    """What the log knows of one emitter."""

    last_seq: int
    """Newest row in the log; of those up to here only what was passed over is stored still."""

    rows: int
    """Rows ever appended, retained or not."""

    dropped: int
    """Rows the emitter says it could not keep."""


@dataclass(frozen=True, slots=True)
class LogStats:
    """The size of a log: what it retains now."""

    rows: int
    batches: int
    labels: int
    bytes: int
    emitters: Mapping[str, EmitterState]


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """The account of one spool; `emitted_rows` is the sum of the other three.

    Every row given to `emit` is in one of them, also across restarts and kills.
    """

    emitted_rows: int = 0
    acknowledged_rows: int = 0
    dropped_rows: int = 0
    pending_rows: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Dropped rows by reason: `spool_full`, `write_error`, `malformed`, `rejected`, `corrupt`."""

    emitter: str = ""
    """The id the log knows the emitter by."""
