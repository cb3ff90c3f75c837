"""The server's composition root: from options to an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson
from prometheus_client import CollectorRegistry

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.records import RecordEmitter, RecordsError
from coalmine.serving._asgi import App, Receive, Scope, Send, respond
from coalmine.serving._dataplane import Dataplane, Limits
from coalmine.serving._errors import StartupError
from coalmine.serving._grpc import SERVICE, GrpcEdge
from coalmine.serving._http import HttpEdge
from coalmine.serving._metrics import ServerMetrics
from coalmine.serving._options import ServeOptions
from coalmine.serving._probes import Probes
from coalmine.serving._servable import Servable

__all__ = ["ServingApp", "create_asgi"]

#: Paths that KServe's application may know; for others it need not be imported to say 404.
_KSERVE_PATHS = ("/v1/", "/v2/", "/openapi.json")


def create_asgi(
    options: ServeOptions,
    *,
    clock: Clock = SYSTEM_CLOCK,
    registry: CollectorRegistry | None = None,
) -> ServingApp:
    """Load the model and build the application; StartupError says what is wrong with `options`.

    The application needs ASGI's lifespan events, and for gRPC a server with response trailers.
    """
    servable = Servable.load(options, clock=clock)
    metrics = ServerMetrics(
        CollectorRegistry() if registry is None else registry,
        model_name=servable.name,
        revision=servable.version,
        arm=options.arm,
    )
    plane = Dataplane(
        servable,
        arm=options.arm,
        limits=Limits(max_body=options.max_body, max_concurrency=options.max_concurrency),
        metrics=metrics,
        emitter=_emitter(options, servable),
        clock=clock,
    )
    return ServingApp(plane, drain_timeout=options.drain)


def _emitter(options: ServeOptions, servable: Servable) -> RecordEmitter | None:
    if options.records is None:
        return None
    if options.spool is None:
        raise StartupError("records need a spool: a directory to keep them in until they are sent")
    try:
        return RecordEmitter(
            options.spool,
            options.records,
            card=servable.card,
            model_version=servable.version,
            arm=options.arm,
            max_bytes=options.max_spool,
        )
    except (RecordsError, OSError) as error:
        raise StartupError(f"records: {error}") from error


class ServingApp:
    """Inference routes and probes by ourselves, everything else by KServe's application."""

    def __init__(self, plane: Dataplane, *, drain_timeout: float) -> None:
        self._plane = plane
        self._drain_timeout = drain_timeout
        self._http = HttpEdge(plane)
        self.grpc = GrpcEdge(plane)
        self._probes = Probes(plane)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rest: asyncio.Task[App] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"this application does not speak {scope['type']}")
        path: str = scope["path"]
        if path.startswith(SERVICE):
            await self.grpc(scope, receive, send)
            return
        route = self._http.match(path)
        if route is not None:
            if scope["method"] == "POST":
                await self._http(route, scope, receive, send)
            else:
                await _error(send, 405, "inference is a POST", (b"allow", b"POST"))
            return
        if scope["method"] == "GET" and await self._probes(path, send):
            return
        if path.startswith(_KSERVE_PATHS):
            await (await self._kserve())(scope, receive, send)
            return
        await _error(send, 404, f"nothing is at {path:.200}")

    def drain(self, done: Callable[[], None]) -> None:
        """Stop being ready, let requests in flight finish, then call `done`; from any thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            done()
            return
        finished = asyncio.run_coroutine_threadsafe(self._plane.drain(self._drain_timeout), loop)
        finished.add_done_callback(lambda _: done())

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._loop = asyncio.get_running_loop()
        await self._plane.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._plane.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _kserve(self) -> App:
        if self._rest is None:
            self._rest = asyncio.create_task(asyncio.to_thread(_load_kserve, self._plane))
        return await asyncio.shield(self._rest)


def _load_kserve(plane: Dataplane) -> App:
    from coalmine.serving._kserve import kserve_app  # seconds of CPU: only when it is needed

    return kserve_app(plane.servable)


async def _error(send: Send, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
    content_type = (b"content-type", b"application/json")
    await respond(send, status, [content_type, *headers], orjson.dumps({"error": message}))
