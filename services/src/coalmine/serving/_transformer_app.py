"""The composition root of a transformer that runs alone: the same edges, the predictor behind."""

from __future__ import annotations

import asyncio
import math

from prometheus_client import CollectorRegistry

from coalmine.clock import Clock
from coalmine.serving._app import ServingApp
from coalmine.serving._asgi import Message, Receive, Scope, Send
from coalmine.serving._catalogue import Catalogue, Offer, Place
from coalmine.serving._dataplane import Dataplane, Limits
from coalmine.serving._errors import StartupError
from coalmine.serving._grpc import SERVICE
from coalmine.serving._member import Link
from coalmine.serving._metrics import ServerMetrics
from coalmine.serving._options import ServeOptions
from coalmine.serving._recording import Recording
from coalmine.serving._repository import Repository
from coalmine.serving._tracing import Tracing
from coalmine.serving._transformer_exchange import exchanging
from coalmine.serving._transformer_loader import RemoteLoader
from coalmine.serving._versions import VersionLedger

__all__ = ["create_transform_asgi"]


def create_transform_asgi(
    options: ServeOptions,
    *,
    clock: Clock,
    registry: CollectorRegistry | None = None,
    link: Link | None = None,
) -> ServingApp:
    """Load the transformer and build the application; it is ready once the predictor has answered.

    StartupError says what is wrong with `options`; a predictor that is away is waited for.
    """
    if options.transformer is None or options.predictor is None or options.name is None:
        raise StartupError("a transformer needs its class, its model's name and a predictor")
    metrics = ServerMetrics(CollectorRegistry() if registry is None else registry)
    loader = RemoteLoader(
        options, options.predictor, name=options.name, metrics=metrics, clock=clock
    )
    # Versions are the predictor's, so that processes need not agree on names for them.
    repository = Repository(
        _Predictor(options), loader, ledger=VersionLedger(), version=options.version or "unknown"
    )
    plane = Dataplane(
        repository,
        arm=options.arm,
        limits=Limits(
            max_body=options.max_body,
            max_concurrency=options.max_concurrency,
            request_timeout=options.request_timeout or math.inf,
            max_arriving=options.max_queue_bytes,
        ),
        metrics=metrics,
        recording=Recording(options, spool_each=False),
        clock=clock,
    )
    return _TransformApp(plane, loader, options, link=link)


class _Predictor(Catalogue):
    """The one model of a transformer: at its predictor, with nothing to fetch."""

    def place(self, offer: Offer) -> Place:
        return Place(offer.name, offer.uri, offer.version, None)


class _TransformApp(ServingApp):
    """The server's application, its requests part of an exchange with the predictor."""

    def __init__(
        self, plane: Dataplane, loader: RemoteLoader, options: ServeOptions, *, link: Link | None
    ) -> None:
        tracing = Tracing.from_environment(clock=plane.clock)
        super().__init__(plane, options, link=link, tracing=tracing)
        grpc = self.grpc
        self.infers_directly = False

        async def exchanged(scope: Scope, receive: Receive, send: Send) -> None:
            await exchanging(grpc, scope, receive, send, clock=plane.clock)

        self.grpc = exchanged  # also called on its own port, past `__call__`
        self._loader = loader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http" or scope["path"].startswith(SERVICE):
            await super().__call__(scope, receive, send)
            return
        await exchanging(super().__call__, scope, receive, send, clock=self.plane.clock)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        keeping: list[asyncio.Task[None]] = []

        async def passing(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                keeping.append(asyncio.create_task(self._loader.keep(self.plane.repository)))
            if message["type"] == "lifespan.shutdown.complete":
                for task in keeping:
                    task.cancel()
                await self._loader.close()
            await send(message)

        await super()._lifespan(receive, passing)
