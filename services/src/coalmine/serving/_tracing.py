"""OpenTelemetry: a span for each inference request, under the caller's, when the environment asks.

Configured by the standard variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER,
OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, ...). Without them nothing of OpenTelemetry is imported and
no edge is wrapped. Spans are exported by a thread of the SDK from a bounded queue: a collector that
is slow or gone costs spans, never a request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.serving._asgi import Edge
from coalmine.serving._spans import RequestSpan, current_span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["Tracing"]

_log = logging.getLogger("coalmine.serving")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class Tracing:
    """Makes and exports spans. `from_environment` is how it comes to be."""

    def __init__(self, provider: TracerProvider, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("coalmine.serving", version("coalmine"))
        self._clock = clock

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, *, clock: Clock = SYSTEM_CLOCK
    ) -> Tracing | None:
        """Tracing as the environment asks for it; None if it does not, or if it cannot be had."""
        settings = os.environ if environment is None else environment
        kinds = _exporters_asked_for(settings)
        if not kinds:
            return None
        try:
            return cls(_provider(kinds, settings), clock=clock)
        except ImportError as error:
            _log.warning(
                "no spans are exported, though the environment asks for it: %s; "
                "pip install 'coalmine[tracing]'",
                error,
            )
        except ValueError as error:
            _log.warning("no spans are exported: %s", error)
        return None

    def around(self, edge: Edge) -> Edge:
        """An edge whose every inference request has a span."""

        async def traced(*arguments: Any) -> None:
            *before, scope, receive, send = arguments
            span = RequestSpan.begin(self._tracer, scope, self._clock)
            if span is None:  # a call that is no inference
                await edge(*arguments)
                return
            token = current_span.set(span)
            try:
                await edge(*before, scope, receive, span.watching(send))
            except BaseException as error:
                span.failed(error)
                raise
            finally:
                current_span.reset(token)
                span.end()

        return traced

    async def close(self, *, timeout: float) -> None:
        """Export what is left, for at most `timeout` seconds."""
        # The thread is a daemon: an export that hangs must not keep the process from ending.
        last = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        await asyncio.to_thread(last.join, timeout)
        if last.is_alive():
            _log.warning("the last spans could not be exported within %s s", timeout)


class _Seldom(logging.Filter):
    """One complaint a minute: an exporter logs each attempt, and tries every other second."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.created < self._next:
            return False
        self._next = record.created + 60
        return True


def _exporters_asked_for(settings: Mapping[str, str]) -> list[str]:
    if settings.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    default = "otlp" if any(settings.get(name) for name in _ENDPOINTS) else ""
    named = settings.get("OTEL_TRACES_EXPORTER") or default
    return [kind.strip() for kind in named.split(",") if kind.strip() not in ("", "none")]


def _provider(kinds: Iterable[str], settings: Mapping[str, str]) -> TracerProvider:
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporters = [_exporter(kind, settings) for kind in kinds]
    own = {SERVICE_VERSION: version("coalmine")}
    if not settings.get("OTEL_SERVICE_NAME") and SERVICE_NAME not in settings.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        own[SERVICE_NAME] = "coalmine-serving"
    # Its own exit handler would wait for a collector that is gone; `close` is the end of it.
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    for exporter in exporters:
        logging.getLogger(type(exporter).__module__).addFilter(_Seldom())
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(kind: str, settings: Mapping[str, str]) -> Any:
    if kind == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if kind != "otlp":
        raise ValueError(f"OTEL_TRACES_EXPORTER is {kind!r}; allowed: otlp, console, none")
    protocol = next((settings[name] for name in _PROTOCOLS if settings.get(name)), "http/protobuf")
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter

        return trace_exporter.OTLPSpanExporter()
    raise ValueError(f"{_PROTOCOLS[1]} is {protocol!r}; allowed: http/protobuf, grpc")
