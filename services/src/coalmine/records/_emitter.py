"""The emitter: one record per request, off the network and almost off the hot path."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from copy import copy
from pathlib import Path

from coalmine.modeldir import ModelCard
from coalmine.records._frame import Layout, Tensors
from coalmine.records._framing import framed
from coalmine.records._shipper import Shipper
from coalmine.records._sink import open_sink
from coalmine.records._spool import Spool
from coalmine.records._types import AnsweredTuple, InferenceRecord, SpoolStats

__all__ = ["RecordEmitter", "drain_spool"]


class RecordEmitter:
    """Keeps records in a spool directory and ships them to a sink from a thread of its own.

    `spool_dir` belongs to one emitter at a time (SpoolInUseError otherwise) and outlives it: the
    next one, also of another model version, ships what is left and continues the sequence numbers.
    `sink_url` is a collector's base URL, or `sqlite:///path` of a log that is written directly
    (ValueError for another). `max_bytes` bounds the spool; beyond it records are
    dropped and counted. Raises SchemaError for a card that makes no record.
    """

    def __init__(
        self,
        spool_dir: Path,
        sink_url: str,
        *,
        card: ModelCard,
        model_version: str,
        arm: str,
        pod: str | None = None,
        max_bytes: int = 256 * 1024**2,
    ) -> None:
        self._layout = Layout.of(
            card, model_version=model_version, arm=arm, pod=pod or socket.gethostname()
        )
        self._header = framed(self._layout.dump())
        sink = open_sink(sink_url)
        self._spool = Spool(spool_dir, header=self._header, max_bytes=max_bytes)
        self._shipper = Shipper(self._spool, sink)

    def of_version(self, *, card: ModelCard, model_version: str) -> RecordEmitter:
        """An emitter for another version of the model, into the same spool.

        Both may emit at once: a version that is replaced still answers what it has begun. Start and
        close the first of them only.
        """
        other = copy(self)
        other._layout = Layout.of(
            card, model_version=model_version, arm=self._layout.arm, pod=self._layout.pod
        )
        other._header = framed(other._layout.dump())
        return other

    async def start(self) -> None:
        """Start shipping; `emit` works before it too."""
        self._shipper.start()

    async def close(self, timeout: float = 3.0) -> None:
        """Ship what is left, for at most `timeout` seconds, and stop; the rest stays on disk."""
        await asyncio.to_thread(self._shipper.stop, timeout)
        self._spool.close()

    def emit(self, record: InferenceRecord) -> None:
        """Keep a record: once this returns, it survives `kill -9` of the process.

        Never raises, never waits for the network; safe from any thread. Call it before the response
        is sent.
        """
        try:
            made = self._layout.encode(record)
        except Exception:  # whatever is wrong with a record, the prediction was right
            self._spool.drop("malformed", _rows(record))
        else:
            self._spool.append(made, header=self._header)

    def emit_batch(
        self,
        requests: Sequence[AnsweredTuple],
        parts: Sequence[Tensors],
        *,
        batch_rows: int,
    ) -> None:
        """Keep the records of requests that were answered together, as `emit` does, in one write.

        The parts, inputs and outputs by name, hold the rows of all requests, one after another; a
        request is told as `AnsweredRequest` or as the plain tuple of the same values.
        """
        if self._spool.is_full:  # a frame would be made for nothing
            self._spool.drop("spool_full", _rows_of(requests))
            return
        try:
            made = self._layout.encode_batch(requests, parts, batch_rows=batch_rows)
        except Exception:
            self._spool.drop("malformed", _rows_of(requests))
        else:
            self._spool.append(made, header=self._header)

    def stats(self) -> SpoolStats:
        """The account so far, from memory; cheap."""
        return self._spool.stats()


def drain_spool(spool_dir: Path, sink_url: str, *, timeout: float) -> SpoolStats:
    """Ship what a dead emitter left, for at most `timeout` seconds, and say what is left. Blocks.

    For an arm that will not come back; one that does ships its spool itself. Raises SpoolInUseError
    while its emitter lives. A directory without a spool gives zeros.
    """
    if not spool_dir.exists():
        return SpoolStats()
    sink = open_sink(sink_url)
    spool = Spool(spool_dir, header=framed(b""), max_bytes=0)
    shipper = Shipper(spool, sink)
    shipper.start()
    shipper.stop(timeout)
    spool.close()
    return spool.stats()


def _rows_of(requests: Sequence[AnsweredTuple]) -> int:
    return sum([max(rows, 1) for _, _, _, _, rows, _, _ in requests])


def _rows(record: InferenceRecord) -> int:
    try:
        return max(1, 1 if record.outputs is None else len(next(iter(record.inputs.values()))))
    except Exception:  # a record so wrong that it has no rows counts as one
        return 1
