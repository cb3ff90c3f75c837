"""The server's composition root: from options to an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable

import orjson
from prometheus_client import CollectorRegistry

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.serving._asgi import App, Edge, Receive, Scope, Send, respond
from coalmine.serving._callers import CallerBlocks
from coalmine.serving._catalogue import Catalogue
from coalmine.serving._dataplane import Dataplane, Limits
from coalmine.serving._gpu import watch_gpus
from coalmine.serving._grpc import SERVICE, GrpcEdge
from coalmine.serving._http import HttpEdge
from coalmine.serving._http1 import Http1
from coalmine.serving._http_call import Route
from coalmine.serving._leftovers import ship_leftovers
from coalmine.serving._loader import Loader
from coalmine.serving._management import REPOSITORY, Control, Management
from coalmine.serving._member import Link
from coalmine.serving._metrics import ServerMetrics
from coalmine.serving._options import ServeOptions, where
from coalmine.serving._probes import Probes
from coalmine.serving._recording import Recording
from coalmine.serving._repository import Repository
from coalmine.serving._tracing import Tracing
from coalmine.serving._triton import Triton
from coalmine.serving._versions import VersionLedger
from coalmine.serving._watch import watch

__all__ = ["ServingApp", "create_asgi"]

_log = logging.getLogger("coalmine.serving")

#: Seconds that the last spans have to reach their collector; part of the grace after SIGTERM.
_LAST_SPANS = 1.0
#: What KServe's application knows beside our own; its import, seconds of CPU, is not for others.
_KSERVE_PATHS = re.compile(r"/v[12]/models|/openapi\.json")


def create_asgi(
    options: ServeOptions,
    *,
    clock: Clock = SYSTEM_CLOCK,
    registry: CollectorRegistry | None = None,
    link: Link | None = None,
) -> ServingApp:
    """Load the models and build the application; StartupError says what is wrong with `options`.

    `link` is for one of several processes of a server: what they do together.

    The application needs ASGI's lifespan events, and for gRPC a server with response trailers.
    """
    if options.predictor is not None:
        from coalmine.serving._transformer_app import create_transform_asgi

        return create_transform_asgi(options, clock=clock, registry=registry, link=link)
    catalogue = Catalogue(options)
    metrics = ServerMetrics(CollectorRegistry() if registry is None else registry)
    if set(options.providers) != {"cpu"}:
        watch_gpus(metrics.registry)
    recording = Recording(options, spool_each=catalogue.holds_several)
    loader = Loader(options, recording=recording, metrics=metrics, clock=clock)
    ledger = VersionLedger() if link is None else link
    repository = Repository(catalogue, loader, ledger=ledger, version=options.version)
    repository.open(None if link is None else link.served())
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
        recording=recording,
        clock=clock,
        callers=CallerBlocks(options.caller_header, salt=options.name or ""),
    )
    return ServingApp(plane, options, link=link, tracing=Tracing.from_environment(clock=clock))


class ServingApp:
    """Inference routes and probes by ourselves, everything else by KServe's application."""

    def __init__(
        self,
        plane: Dataplane,
        options: ServeOptions,
        *,
        link: Link | None,
        tracing: Tracing | None = None,
    ) -> None:
        self.plane = plane
        self._options = options
        self._link = link
        self._control: Control = plane.repository if link is None else link
        self._tracing = tracing
        self._http = HttpEdge(plane)
        self._infer: Edge = self._http
        self.grpc: Edge = GrpcEdge(plane, self._control)
        #: Whether nothing stands between ModelInfer and the plane (see `_grpc_door`).
        self.infers_directly = tracing is None
        if tracing is not None:
            self._infer, self.grpc = tracing.around(self._infer), tracing.around(self.grpc)
        self._probes = Probes(plane, render=plane.metrics.render if link is None else link.render)
        self._management = Management(plane.repository, self._control)
        self._watching: asyncio.Task[None] | None = None
        #: Of a pyvoy server, which gives us HTTP/2 alone.
        self._http1 = Http1.inherited(self, options)
        self._triton = Triton(plane)
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
        if path.startswith(SERVICE) and _has_trailers(scope):
            await self.grpc(scope, receive, send)
            return
        route = self._http.match(path)
        if route is not None:
            if scope["method"] == "POST":
                await self._infer(route, scope, receive, send)
            else:
                await _error(send, 405, "inference is a POST", (b"allow", b"POST"))
            return
        if await self._probes(scope["method"], path, send):
            return
        if path.startswith(REPOSITORY):
            await self._management(scope, receive, send)
            return
        if await self._triton(scope["method"], path, send):
            return
        if _is_grpc(scope):  # of another service: health, or one that we do not have
            await self.grpc(scope, receive, send)
            return
        if _KSERVE_PATHS.fullmatch(path):
            await (await self._kserve())(scope, receive, send)
            return
        await _error(send, 404, f"nothing is at {path:.200}")

    def inference(self, path: str) -> Route | None:
        """The inference route of a path, if it is one."""
        return self._http.match(path)

    def drain(self, done: Callable[[], None]) -> None:
        """Stop being ready, let requests in flight finish, then call `done`; from any thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            done()
            return
        if self._http1 is not None:
            self._http1.leave()
        finished = asyncio.run_coroutine_threadsafe(self.plane.drain(self._options.drain), loop)
        finished.add_done_callback(lambda _: done())

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._loop = asyncio.get_running_loop()
        await self.plane.start()
        plane, link, every = self.plane, self._link, self._options.watch
        if link is not None:
            ports = [self._options.port, self._options.grpc_port]
            await link.start(
                plane.repository, plane.metrics.registry, ports=[p for p in ports if p is not None]
            )
        if every and (link is None or link.index == 0):
            self._watching = asyncio.create_task(
                watch(plane.repository, self._control, every=every)
            )
        if self._options.spool is not None and (link is None or link.index == 0):
            root = self._options.spool if link is None else self._options.spool.parent
            ship_leftovers(root, self._options)
        if self._http1 is not None:
            await self._http1.start()
        if link is None:
            served = [f"{each.name} version {each.version}" for each in plane.repository.serving()]
            _log.info("ready: %s at %s", ", ".join(served) or "no model", where(self._options))
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        except asyncio.CancelledError:
            return  # a second signal, which does not wait for anything
        if self._watching is not None:
            self._watching.cancel()
        if self._http1 is not None:
            await self._http1.close()
        await plane.close()
        if link is not None:
            await link.close()
        if self._tracing is not None:
            await self._tracing.close(timeout=_LAST_SPANS)
        await send({"type": "lifespan.shutdown.complete"})

    async def _kserve(self) -> App:
        if self._rest is None:
            self._rest = asyncio.create_task(asyncio.to_thread(_load_kserve, self.plane))
        return await asyncio.shield(self._rest)


def _has_trailers(scope: Scope) -> bool:
    """Whether the server can send what gRPC ends an answer with; uvicorn cannot."""
    return "http.response.trailers" in (scope.get("extensions") or ())


def _is_grpc(scope: Scope) -> bool:
    content_type: bytes = dict(scope["headers"]).get(b"content-type", b"")
    return content_type.startswith(b"application/grpc") and _has_trailers(scope)


def _load_kserve(plane: Dataplane) -> App:
    from coalmine.serving._kserve import kserve_app  # seconds of CPU: only when it is needed

    return kserve_app(plane.repository)


async def _error(send: Send, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
    content_type = (b"content-type", b"application/json")
    await respond(send, status, [content_type, *headers], orjson.dumps({"error": message}))
