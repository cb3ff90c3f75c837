"""Telling people how a run ended.

The address comes from the environment variable `COALMINE_NOTIFY_URL`, a secret on a cluster:
`http:` and `https:` receive a JSON body, `file:` gets a line appended. A notice is sent in every
outcome: by the pipeline's exit step, or by the retrainer when the run was killed before it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.retraining._events import emit_event

NOTIFY_URL = "COALMINE_NOTIFY_URL"
_TRIES = 3
_FILE = "notifications.jsonl"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notice:
    """How a run ended."""

    run: str
    model: str
    outcome: str
    """`SUCCEEDED`, `FAILED`, or the retrainer's `timeout`, `failed`, `STOPPED`."""

    reason: str
    """Why the run was started."""

    message: str = ""


def notify_address(state: Path) -> str:
    """Where notices go: what the environment says, else a file in the state directory."""
    return os.environ.get(NOTIFY_URL) or (state.absolute() / _FILE).as_uri()


def notify(notice: Notice, *, url: str | None = None, clock: Clock = SYSTEM_CLOCK) -> bool:
    """Send a notice; False, and a line in the log, if it could not be delivered. Never raises."""
    address = url or os.environ.get(NOTIFY_URL)
    body = {**asdict(notice), "time": clock.time()}
    _log.warning("run %s of %s: %s %s", notice.run, notice.model, notice.outcome, notice.message)
    delivered = False
    try:
        delivered = address is not None and _deliver(address, body)
    except (OSError, ValueError) as error:
        _log.error("the notice of run %s was not delivered: %s", notice.run, error)
    emit_event("notified", outcome=notice.outcome, delivered=delivered)
    return delivered


def _deliver(address: str, body: dict[str, object]) -> bool:
    import httpx  # only where there is somebody to call: a step's imports are most of its time

    parts = urlsplit(address)
    if parts.scheme == "file":
        with Path(url2pathname(parts.path)).open("a", encoding="utf-8") as file:
            file.write(json.dumps(body) + "\n")
        return True
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{NOTIFY_URL} has scheme {parts.scheme!r}; allowed: http, https, file")
    for attempt in range(_TRIES):
        try:
            httpx.post(address, json=body, timeout=5.0).raise_for_status()
            return True
        except httpx.HTTPError as error:
            if attempt == _TRIES - 1:
                raise OSError(f"{parts.scheme}://{parts.netloc}: {error}") from error
            time.sleep(0.5 * 2**attempt)
    return False
