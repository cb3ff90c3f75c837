"""A model of the service file that lies elsewhere: fetched, and refused in words."""

from __future__ import annotations

import functools
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coalmine.modeldir import ModelCard, ModelDirectoryError, Tensor, load_card, write_card
from coalmine.spec import ModelSpec, ServiceSpec
from coalmine.stack import StackError, StateDirectory
from coalmine.stack._offer import _fetched, check_model

X = Tensor(name="x", datatype="FP32", shape=(-1, 2))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server's URL, and the directory it serves."""
    root = tmp_path / "web"
    root.mkdir()
    handler = functools.partial(_Quiet, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_model_directory_from_the_web(web: tuple[str, Path], tmp_path: Path) -> None:
    url, root = web
    made = tmp_path / "made"
    made.mkdir()
    write_card(made, ModelCard(name="m", inputs=(X,), outputs=(X,)))
    with tarfile.open(root / "m.tar.gz", "w:gz") as archive:
        archive.add(made / "model.yaml", "model.yaml")
    state = StateDirectory(tmp_path / "state")
    found = await _fetched(f"{url}/m.tar.gz", state=state)
    assert load_card(found) == load_card(made)
    assert found.is_relative_to(tmp_path / "state")

    with tarfile.open(root / "other.tar.gz", "w:gz") as archive:
        note = tarfile.TarInfo("note.txt")
        note.size = 2
        archive.addfile(note, io.BytesIO(b"hi"))
    with pytest.raises(ModelDirectoryError, match=r"model\.yaml: missing"):
        await _fetched(f"{url}/other.tar.gz", state=state)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://b/m#sha256=1", r"model\.uri: .*after `#` only sha256="),
    ],
)
def test_a_uri_of_the_wrong_form_is_said_before_anything_starts(uri: str, message: str) -> None:
    with pytest.raises(StackError, match=message):
        check_model(ServiceSpec(name="m", model=ModelSpec(uri=uri)))


@pytest.mark.parametrize(
    "uri", ["s3://b/m", "gs://b/m", "hf://o/r:main/onnx", "https://h/m.tar.gz", "http://h/m.zip"]
)
def test_the_schemes_of_elsewhere(uri: str) -> None:
    assert check_model(ServiceSpec(name="m", model=ModelSpec(uri=uri))) is None
