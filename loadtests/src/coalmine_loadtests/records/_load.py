"""Senders: each a thread with a connection, an emitter's name and its sequence numbers."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass, field

from coalmine_loadtests.records._payload import Payload

__all__ = ["Sender"]

#: Above every number of a batch of one sender.
_SPAN = 1 << 32


@dataclass
class Sender:
    """Sends one batch after another; one without an answer is sent again until it has one."""

    number: int
    port: int
    payload: Payload
    sent: int = 0
    """Batches that were given a number."""

    tags: list[str] = field(default_factory=list)
    """Of acknowledged batches."""

    seconds: list[float] = field(default_factory=list)
    """From the first byte of an acknowledged batch to its answer."""

    refused: int = 0
    """Answers of 429."""

    failures: list[str] = field(default_factory=list)
    """Answers that nobody expects."""

    pending: str | None = None
    """The tag of a batch that was sent and not answered."""

    def run(self, stop: threading.Event) -> None:
        """Send until told to stop, or until the collector is gone."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            while not stop.is_set():
                if self.pending is None:
                    self.pending = self.payload.renumber(self.number * _SPAN + self.sent)
                    self.sent += 1
                if not self._deliver(connection):
                    return
        except (OSError, http.client.HTTPException):
            pass  # killed; the batch is sent again to the next one
        finally:
            connection.close()

    def _deliver(self, connection: http.client.HTTPConnection) -> bool:
        rows = self.payload.rows
        first = (self.sent - 1) * rows + 1
        headers = {"x-coalmine-batch": f"bench-{self.number}:{first}-{first + rows - 1}"}
        began = time.perf_counter()
        connection.request("POST", "/v1/records", self.payload.body, headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == 429:
            self.refused += 1
            time.sleep(0.05)
            return True
        if answer.status != 200 or self.pending is None:
            self.failures.append(f"{answer.status}: {body[:200]!r}")
            return False
        self.seconds.append(time.perf_counter() - began)
        self.tags.append(self.pending)
        self.pending = None
        return True
