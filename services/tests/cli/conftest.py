"""The command line as it is typed, and a control process that answers what it is told to."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from coalmine.cli import main
from coalmine.stack import Part, Running, StateDirectory

GOOD = "name: ev\nmodel: {uri: 'models:/ev@champion'}\n"


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def coalmine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COALMINE_STATE", raising=False)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["coalmine", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return Done(int(exited.value.code or 0), captured.out, captured.err)

    return run


@dataclass
class Control:
    """Stands where the control process does: answers what it is told to, and remembers."""

    url: str = ""
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    control = Control()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            control.asked.append((self.command, self.path, body))
            status, answer = control.answers.get(self.path, (404, {"detail": "Not Found"}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        control.url = f"http://127.0.0.1:{server.server_port}"
        state = StateDirectory(tmp_path / ".coalmine" / "ev")
        with state.locked():
            parts = (Part("gateway", 11, "http://127.0.0.1:1"), Part("control", 12, control.url))
            state.write_running(Running("ev", "coalmine.yaml", 10, 100.0, parts))
            yield control
        server.shutdown()
        thread.join()
