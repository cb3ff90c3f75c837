"""The shipper: a thread that turns frames into Arrow batches and posts them until taken."""

from __future__ import annotations

import http.client
import logging
import random
import threading

import pyarrow as pa

from coalmine.records._decode import decode
from coalmine.records._post import Answer, Poster
from coalmine.records._spool import Chunk, Spool
from coalmine.records._types import BatchId

__all__ = ["CONTENT_TYPE", "Shipper"]

CONTENT_TYPE = "application/vnd.apache.arrow.stream"

#: How long rows may wait to travel together; what a monitor sees is that much older.
_LINGER = 0.2
_TIMEOUT = 10.0
_GRACE = 1.0
_FIRST_DELAY, _LAST_DELAY = 0.05, 5.0
#: Answers that say the batch itself is wrong: sending it again cannot help.
_REJECTIONS = (400, 413, 422)

_log = logging.getLogger(__name__)


class Shipper:
    """Ships the chunks of a spool, in order, one at a time."""

    def __init__(self, spool: Spool, sink_url: str) -> None:
        self._spool = spool
        self._poster = Poster(f"{sink_url.rstrip('/')}/v1/records", timeout=_TIMEOUT)
        self._draining = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="coalmine-shipper", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Ship what is left for at most `timeout` seconds, then end the thread. Blocks.

        A thread caught while connecting is left behind: it ends by itself, without another effect.
        """
        self._draining.set()
        if not self._thread.is_alive():
            return
        self._thread.join(timeout)
        self._stopped.set()
        self._poster.abort()
        self._thread.join(_GRACE)

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            try:
                done = self._ship_all()
            except Exception:
                # A bug or a sick disk: the records wait in the spool, the server goes on.
                _log.exception("shipping records failed; trying again")
                failures += 1
                self._stopped.wait(_delay(failures))
                continue
            failures = 0
            if done and self._draining.is_set():
                break
            self._draining.wait(_LINGER)
        self._poster.close()

    def _ship_all(self) -> bool:
        """Ship until nothing is pending (True), a batch was not full, or it is time to stop."""
        while (chunk := self._spool.next_chunk()) is not None:
            try:
                body = _encode(chunk)
            except (pa.ArrowException, ValueError):
                _log.exception("records %d-%d cannot be read", chunk.first, chunk.last)
                self._spool.give_up(chunk, "corrupt")
                continue
            if not self._deliver(chunk, body):
                return False
            if chunk.found.end == len(chunk.data) and not self._draining.is_set():
                return False  # all there was: let the next rows gather
        return True

    def _deliver(self, chunk: Chunk, body: bytes) -> bool:
        """Post until it is taken or rejected; False if told to stop before."""
        stats = self._spool.stats()
        headers = {
            "content-type": CONTENT_TYPE,
            "x-coalmine-batch": str(BatchId(stats.emitter, chunk.first, chunk.last)),
            "x-coalmine-dropped": str(stats.dropped_rows),
        }
        failures = 0
        while not self._stopped.is_set():
            answer = self._post(body, headers)
            if answer is not None and answer.status == 200:
                self._spool.acknowledge(chunk)
                if failures:
                    _log.warning("the collector takes records again")
                return True
            if answer is not None and answer.status in _REJECTIONS:
                _log.error(
                    "the collector rejects %s: %d", headers["x-coalmine-batch"], answer.status
                )
                self._spool.give_up(chunk, "rejected")
                return True
            failures += 1
            if failures == 1:
                _log.warning("the collector takes no records (%s); keeping them", _why(answer))
            asked = answer.retry_after if answer is not None else None
            self._stopped.wait(max(_delay(failures), min(asked or 0.0, _LAST_DELAY)))
        return False

    def _post(self, body: bytes, headers: dict[str, str]) -> Answer | None:
        try:
            return self._poster.post(body, headers)
        except (OSError, http.client.HTTPException):
            return None


def _encode(chunk: Chunk) -> bytes:
    batch = decode(chunk.data, chunk.found, layout=chunk.layout)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _delay(failures: int) -> float:
    """Exponential, with jitter so that the arms of a fleet do not come back in step."""
    delay: float = min(_LAST_DELAY, _FIRST_DELAY * 2 ** min(failures, 10))
    return delay * random.uniform(0.5, 1.0)


def _why(answer: Answer | None) -> str:
    return "no connection" if answer is None else f"status {answer.status}"
