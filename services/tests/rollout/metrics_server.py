"""An arm as a scraper sees it: the metrics of our model server, over HTTP, without a model."""

from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry

from coalmine.serving._metrics import ServerMetrics

NAME = "m"


class MetricsServer:
    """Counts what it is told to; `stop` and `start` are a restart, from zero."""

    def __init__(self, arm: str, revision: str, *, port: int = 0) -> None:
        self.arm, self.revision, self.port = arm, revision, port
        self.start()

    def start(self) -> None:
        self._metrics = ServerMetrics(CollectorRegistry())
        model = self._metrics.of_model(model_name=NAME, revision=self.revision, arm=self.arm)
        self._model, metrics = model, self._metrics

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = asyncio.run(metrics.render())
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, times: int, *, status: int = 200, seconds: float = 0.002) -> None:
        for _ in range(times):
            self._model.answered("v2", status, seconds)

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
