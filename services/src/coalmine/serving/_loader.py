"""From an offer to a servable that is ready to be swapped in: loaded, warm, recorded, counted."""

from __future__ import annotations

from dataclasses import replace

from coalmine.clock import Clock
from coalmine.serving._catalogue import Offer
from coalmine.serving._metrics import ServerMetrics
from coalmine.serving._options import ServeOptions
from coalmine.serving._recording import Recording
from coalmine.serving._servable import Servable

__all__ = ["Loader"]


class Loader:
    """Makes the servables of one server."""

    def __init__(
        self, options: ServeOptions, *, recording: Recording, metrics: ServerMetrics, clock: Clock
    ) -> None:
        self._options = options
        self._recording = recording
        self._metrics = metrics
        self._clock = clock

    def load(self, offer: Offer, *, version: str) -> Servable:
        """Load and warm up; takes its time. StartupError says what is wrong with the model."""
        options = replace(self._options, model=offer.uri, name=offer.name, version=version, also=())
        servable = Servable.load(options, clock=self._clock)
        try:
            servable.host(
                arm=self._options.arm,
                metrics=self._metrics.of_model(
                    model_name=servable.name, revision=version, arm=self._options.arm
                ),
                emitter=self._recording.emitter(servable),
            )
        except BaseException:
            servable.close()
            raise
        return servable

    async def start(self) -> None:
        """Start shipping the records of what was loaded."""
        await self._recording.start()
