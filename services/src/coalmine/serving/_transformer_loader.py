"""From a predictor's address to a servable: asked what it takes, and watched for changes."""

from __future__ import annotations

import asyncio
import logging

from coalmine.clock import Clock
from coalmine.serving._catalogue import Offer
from coalmine.serving._errors import ModelLoadError, ServingError
from coalmine.serving._loader import Loader
from coalmine.serving._metrics import ServerMetrics
from coalmine.serving._options import ServeOptions
from coalmine.serving._repository import Repository
from coalmine.serving._servable import Servable
from coalmine.serving._transform import load_transformer
from coalmine.serving._transformer_chain import Chain, connect
from coalmine.serving._transformer_options import PredictorOptions
from coalmine.serving._transformer_servable import RemoteServable

__all__ = ["RemoteLoader"]

_log = logging.getLogger("coalmine.serving")
#: Pauses between two questions to a predictor that is not there yet, and to one that is.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 3.0
_LOOK = 5.0
#: Of a predictor that does not say.
_NO_VERSION = "1"


class RemoteLoader(Loader):
    """Makes the servables of a transformer that runs alone; StartupError if it cannot be made."""

    def __init__(
        self,
        options: ServeOptions,
        predictor: PredictorOptions,
        *,
        name: str,
        metrics: ServerMetrics,
        clock: Clock,
    ) -> None:
        assert options.transformer is not None
        self._arm = options.arm
        self._version = options.version
        self._remote_metrics = metrics
        self._remote_clock = clock
        self._predictor = predictor
        self._name = name
        self._transformer = load_transformer(options.transformer, artefact=options.artefact)
        self._client = connect(predictor, name=name)
        self._loop: asyncio.AbstractEventLoop | None = None

    def load(self, offer: Offer, *, version: str) -> Servable:
        """Ask the predictor, on the event loop that will use the connection; called in a thread."""
        assert self._loop is not None
        try:
            return asyncio.run_coroutine_threadsafe(self._load(), self._loop).result()
        except ServingError as error:
            raise ModelLoadError(str(error)) from error

    async def _load(self) -> Servable:
        chain = await Chain.open(self._transformer, self._client, self._predictor)
        servable = RemoteServable(
            chain,
            name=self._name,
            version=self._version or chain.version or _NO_VERSION,
            clock=self._remote_clock,
        )
        metrics = self._remote_metrics.of_model(
            model_name=self._name, revision=servable.version, arm=self._arm
        )
        servable.host(arm=self._arm, metrics=metrics, emitter=None)
        return servable

    async def start(self) -> None:
        """Nothing is recorded here: the predictor records what the model was given."""

    async def keep(self, repository: Repository) -> None:
        """Load, however often the predictor has to be asked; then again whenever it changes."""
        self._loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        while True:
            try:
                await repository.load(self._name)
                await self._changed(repository)
                pause = _FIRST_PAUSE
            except ServingError:  # logged, and kept as the reason for not being ready
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _changed(self, repository: Repository) -> None:
        """Return when the predictor says that it is another model now."""
        while True:
            await asyncio.sleep(_LOOK)
            servable = repository.slot(self._name).servable
            if not isinstance(servable, RemoteServable):
                continue  # somebody unloaded it
            try:
                described = await self._client.describe()
                if not servable.chain.knows(described):
                    _log.info("the predictor of %s has changed", self._name)
                    return
            except ServingError as error:
                _log.warning("the predictor of %s: %s", self._name, error)

    async def close(self) -> None:
        """Close the connections to the predictor."""
        await self._client.close()
