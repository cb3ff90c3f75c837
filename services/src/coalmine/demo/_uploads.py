"""The fleet as a stream of uploads, simulated a little ahead in a thread."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fleet", "Upload", "UploadSource"]

WINDOWS_PER_UPLOAD = 8


class Fleet(Protocol):
    """What is asked of a simulator: `coalmine.apps.ev_battery.Fleet` has it."""

    def uploads(self, n: int, windows_per_upload: int = ...) -> Any:
        """The next n uploads, as Telemetry."""
        ...

    def set_world(self, world: Any) -> None:
        """From the next upload on, another world."""
        ...


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload of one vehicle: its windows, and what the workshop will find."""

    vehicle: str
    windows: dict[str, NDArray[np.float32]]
    truth: NDArray[np.int64]
    delay_days: NDArray[np.float64]


class UploadSource:
    """Uploads one by one; a changed world shows from the next upload on.

    The fleet belongs to one simulating thread at a time: worlds are handed to it between chunks.
    """

    def __init__(self, fleet: Fleet, *, chunk: int = 96) -> None:
        self._fleet = fleet
        self._chunk = chunk
        self._ready: deque[Upload] = deque()
        self._ahead: asyncio.Task[list[Upload]] | None = None
        self._world: Any = None

    def change(self, world: Any) -> None:
        """Let another world begin; what was simulated ahead in the old one is thrown away."""
        self._world = world
        self._ready.clear()

    async def next(self) -> Upload:
        """The next upload, waiting for the simulator if it is behind."""
        while not self._ready:
            ahead = self._ahead or asyncio.create_task(asyncio.to_thread(self._simulate))
            self._ahead = ahead
            uploads = await asyncio.shield(ahead)
            if self._world is not None:  # the world changed meanwhile: these are of the old one
                self._fleet.set_world(self._world)
                self._world = None
                uploads = []
            self._ready.extend(uploads)
            self._ahead = asyncio.create_task(asyncio.to_thread(self._simulate))
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Wait for the chunk that is being simulated."""
        if self._ahead is not None:
            await asyncio.gather(self._ahead, return_exceptions=True)
            self._ahead = None

    def _simulate(self) -> list[Upload]:
        telemetry = self._fleet.uploads(self._chunk, windows_per_upload=WINDOWS_PER_UPLOAD)
        starts = range(0, len(telemetry.label), WINDOWS_PER_UPLOAD)
        return [_upload(telemetry, slice(at, at + WINDOWS_PER_UPLOAD)) for at in starts]


def _upload(telemetry: Any, rows: slice) -> Upload:
    return Upload(
        vehicle=str(int(telemetry.vehicle[rows.start])),
        windows={name: array[rows] for name, array in telemetry.raw.items()},
        truth=np.asarray(telemetry.label[rows], dtype=np.int64),
        delay_days=np.asarray(telemetry.label_delay_days[rows], dtype=np.float64),
    )
