"""nginx, which answers with a right body that was computed before: what HTTP itself allows here."""

from __future__ import annotations

from collections.abc import Sequence

from coalmine_loadtests.serving._cells import Cell
from coalmine_loadtests.serving._models import FloatArray
from coalmine_loadtests.serving._server import Launch, Server
from coalmine_loadtests.serving._wire import Request, V2Wire

__all__ = ["SERVERS"]


class _OnePathEach(V2Wire):
    """Cells of one model have answers of different lengths."""

    def request(self, cell: Cell, rows: FloatArray) -> Request:
        request = super().request(cell, rows)
        return Request(f"/{cell.name}", request.body, request.headers)


_CONFIGURATION = """
daemon off; master_process off; worker_processes 1; pid {home}/nginx.pid; error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000; client_max_body_size 64m;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi; uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  default_type application/json;
  server {{
    listen 127.0.0.1:{port};
    location = /ready {{ return 200 ok; }}
    {locations}
  }}
}}
"""


def _command(launch: Launch) -> Sequence[str]:
    locations = "\n    ".join(
        f"location = {path} {{ return 200 '{body.decode('ascii')}'; }}"
        for path, body in launch.replies.items()
    )
    text = _CONFIGURATION.format(home=launch.scratch, port=launch.http_port, locations=locations)
    file = launch.scratch / "nginx.conf"
    file.write_text(text, "ascii")
    return ("nginx", "-p", str(launch.scratch), "-c", str(file))


SERVERS = (
    Server(
        name="nginx",
        title="nginx, a static answer (ceiling)",
        cells=("mlp/json1_c8", "mlp/json1_c64", "mlp/json64_c8"),
        wire=_OnePathEach(),
        command=_command,
        ready="/ready",
        distributions=(),
        programs={"nginx": "nginx-light"},
        replays=True,
    ),
)
