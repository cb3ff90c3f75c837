"""The shipper: a thread that delivers what is in the spool until it is taken.

It hands frames on as they lie there: what makes columns of them is the other side's work, which a
prediction on this core would have to wait for.
"""

from __future__ import annotations

import logging
import random
import threading
import time

from coalmine.records._segment import Chunk
from coalmine.records._sink import Sink
from coalmine.records._spool import Spool
from coalmine.records._types import BatchId

__all__ = ["Shipper"]

#: How long rows may wait to travel together; what a monitor sees is that much older. The longer a
#: delivery took, the longer the next one waits: each holds up the requests of that moment, and
#: fewer than one in a hundred shall notice.
_LINGER, _LONGEST_LINGER, _LINGER_SHARE = 0.2, 1.0, 500.0
_GRACE = 1.0
#: Seconds of rest for each second of work, for predictions need the processor more. What comes in a
#: burst waits in the spool; while too much does there is no rest.
_REST = 7.0
_FIRST_DELAY, _LAST_DELAY = 0.05, 5.0

_log = logging.getLogger(__name__)


class Shipper:
    """Ships the chunks of a spool, in order, one at a time."""

    def __init__(self, spool: Spool, sink: Sink) -> None:
        self._spool = spool
        self._sink = sink
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
        self._spool.filling.set()
        if not self._thread.is_alive():
            return
        self._thread.join(timeout)
        self._stopped.set()
        self._sink.abort()
        self._thread.join(_GRACE)

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            began = time.thread_time()
            self._spool.filling.clear()
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
            worked = time.thread_time() - began
            if not self._draining.is_set():
                linger = min(max(_LINGER, _LINGER_SHARE * worked), _LONGEST_LINGER)
                self._spool.filling.wait(linger)
        self._sink.close()

    def _ship_all(self) -> bool:
        """Ship until nothing is pending (True), a batch was not full, or it is time to stop."""
        while (chunk := self._spool.next_chunk()) is not None:
            began = time.thread_time()
            if not self._deliver(chunk):
                return False
            if chunk.is_newest and not self._draining.is_set():
                return False  # all there was: let the next rows gather
            if not self._spool.is_behind:
                self._draining.wait(_REST * (time.thread_time() - began))
        return True

    def _deliver(self, chunk: Chunk) -> bool:
        """Deliver until it is taken or rejected; False if told to stop before."""
        stats = self._spool.stats()
        batch_id = BatchId(stats.emitter, chunk.first, chunk.last)
        failures = 0
        while not self._stopped.is_set():
            done = self._sink.deliver(chunk, batch_id=batch_id, dropped=stats.dropped_rows)
            if done.taken:
                self._spool.acknowledge(chunk)
                if failures:
                    _log.warning("records are taken again")
                return True
            if done.rejected:
                _log.error("records %s are rejected: %s", batch_id, done.why)
                self._spool.give_up(chunk, "rejected")
                return True
            failures += 1
            if failures == 1:
                _log.warning("no records are taken (%s); keeping them", done.why)
            self._stopped.wait(max(_delay(failures), min(done.retry_after, _LAST_DELAY)))
        return False


def _delay(failures: int) -> float:
    """Exponential, with jitter so that the arms of a fleet do not come back in step."""
    delay: float = min(_LAST_DELAY, _FIRST_DELAY * 2 ** min(failures, 10))
    return delay * random.uniform(0.5, 1.0)
