"""A Kubernetes API server in this process: real sockets, real optimistic concurrency, faults.

It keeps objects with `resourceVersion` and `generation` as the real one does: a stale write is a
409, only a changed spec raises the generation, and status is not written with the rest. Every
reading is a moment of time for the controllers (`controllers.py`), so that their status lags behind
by a known number of readings.
"""

from __future__ import annotations

import copy
import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Object = dict[str, Any]
Key = tuple[str, str]
"""Resource and name, such as `("inferenceservices.serving.kserve.io", "m")`."""

NAMESPACE = "models"
TOKEN = "t0ken"


class Refused(Exception):
    """What an admission webhook says."""


@dataclass
class Fault:
    """What happens to the next requests that match, instead of an answer or after the work."""

    method: str
    resource: str
    kind: str
    """`429`, `503`, `lost` (taken, then the connection is reset) or `cut` (reset before)."""

    times: int = 1
    retry_after: str = "0"


class ApiServer:
    """Objects of one namespace, and the HTTP in front of them."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.faults: list[Fault] = []
        self.before_write: list[Callable[[], None]] = []
        """Called once each, after a client read and before its write: another writer."""

        self.on_request: Callable[[], None] = lambda: None
        """Called at every request of a client, before anything is done."""

        self.writes: list[tuple[str, str, str]] = []
        self.admission: Callable[[str, Object], None] = lambda resource, obj: None
        self.on_read: Callable[[], None] = lambda: None
        self.lock = threading.RLock()
        self._version = 100
        handler = type("Handler", (_Handler,), {"api": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    # -- what controllers do ----------------------------------------------------------------------

    def get(self, resource: str, name: str) -> Object | None:
        return self.objects.get((resource, name))

    def put(self, resource: str, name: str, wanted: Object) -> Object:
        """Create or replace an object's metadata and spec."""
        with self.lock:
            before = self.objects.get((resource, name))
            stored = copy.deepcopy(wanted)
            meta = stored.setdefault("metadata", {})
            meta |= {"name": name, "namespace": NAMESPACE}
            stored.pop("status", None)
            if before is None:
                meta["generation"] = 1
            else:
                same = _desired(stored) == _desired(before)
                meta["generation"] = before["metadata"]["generation"] + (0 if same else 1)
                if "status" in before:
                    stored["status"] = before["status"]
            meta["resourceVersion"] = self._next()
            self.objects[(resource, name)] = stored
            return stored

    def put_status(self, resource: str, name: str, status: Object) -> None:
        with self.lock:
            found = self.objects.get((resource, name))
            if found is not None and found.get("status") != status:
                found["status"] = copy.deepcopy(status)
                found["metadata"]["resourceVersion"] = self._next()

    def annotate(self, resource: str, name: str, key: str, value: str) -> None:
        """A controller that notes something in an object: no new generation, but a new version."""
        with self.lock:
            found = copy.deepcopy(self.objects[(resource, name)])
            found["metadata"].setdefault("annotations", {})[key] = value
            self.put(resource, name, found)

    def remove(self, resource: str, name: str) -> None:
        with self.lock:
            self.objects.pop((resource, name), None)

    def named(self, resource: str) -> list[str]:
        return [name for kind, name in self.objects if kind == resource]

    def _next(self) -> str:
        self._version += 1
        return str(self._version)

    # -- what clients do --------------------------------------------------------------------------

    def handle(self, method: str, resource: str, name: str | None, body: Object) -> tuple[int, Any]:
        with self.lock:
            self.on_request()
            if method == "GET":
                self.on_read()
                found = self.objects.get((resource, name or ""))
                return (200, found) if found else _status(404, f'{resource} "{name}" not found')
            self.writes.append((method, resource, name or body["metadata"]["name"]))
            try:
                if method == "POST":
                    return self._create(resource, body)
                if method == "PUT":
                    return self._replace(resource, str(name), body)
            except Refused as error:
                text = f'admission webhook "webhook.kserve" denied the request: {error}'
                return _status(400, text)
            if (resource, name) not in self.objects:
                return _status(404, "not found")
            self.remove(resource, str(name))
            return _status(200, "deleted")

    def _create(self, resource: str, body: Object) -> tuple[int, Any]:
        name = body["metadata"]["name"]
        if (resource, name) in self.objects:
            return _status(409, f"{name} already exists")
        self.admission(resource, body)
        return 201, self.put(resource, name, body)

    def _replace(self, resource: str, name: str, body: Object) -> tuple[int, Any]:
        if self.before_write:
            self.before_write.pop(0)()
        before = self.objects.get((resource, name))
        if before is None:
            return _status(404, "not found")
        if body["metadata"].get("resourceVersion") != before["metadata"]["resourceVersion"]:
            return _status(409, "the object has been modified; please apply your changes to it")
        self.admission(resource, body)
        return 200, self.put(resource, name, body)


def _desired(obj: Object) -> Object:
    return {k: v for k, v in obj.items() if k not in ("metadata", "status")}


def _status(code: int, message: str) -> tuple[int, Object]:
    return code, {"kind": "Status", "apiVersion": "v1", "code": code, "message": message}


class _Handler(BaseHTTPRequestHandler):
    api: ApiServer
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes: else the second waits for the peer's delayed answer.
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        resource, name = _parse(self.path)
        fault = self._fault(resource)
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._answer(*_status(401, "Unauthorized"))
        elif fault is not None and fault.kind in ("429", "503"):
            code, answer = _status(int(fault.kind), "too busy")
            self._answer(code, answer, {"retry-after": fault.retry_after})
        elif fault is not None and fault.kind == "cut":
            self._reset()
        else:
            code, answer = self.api.handle(str(self.command), resource, name, body)
            if fault is not None:
                self._reset()
            else:
                self._answer(code, answer)

    do_GET = do_PUT = do_POST = do_DELETE = _serve

    def _fault(self, resource: str) -> Fault | None:
        with self.api.lock:
            for fault in self.api.faults:
                if fault.times and (fault.method, fault.resource) == (self.command, resource):
                    fault.times -= 1
                    return fault
        return None

    def _answer(self, code: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        with self.api.lock:
            content = json.dumps(answer).encode()
        self.send_response(code)
        for key, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _reset(self) -> None:
        # No lingering: the peer sees a reset, not an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _parse(path: str) -> tuple[str, str | None]:
    """`/apis/GROUP/VERSION/namespaces/NS/PLURAL[/NAME]` as `PLURAL.GROUP` and name."""
    parts = path.strip("/").split("/")
    group = "" if parts[0] == "api" else parts[1]
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    assert rest[:2] == ["namespaces", NAMESPACE], path
    plural = rest[2]
    return (f"{plural}.{group}" if group else plural), (rest[3] if len(rest) > 3 else None)
