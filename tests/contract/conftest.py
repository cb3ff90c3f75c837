"""A real server of each kind, with a model that takes and returns every datatype."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..servers import DATATYPES, Server, identity, serving

EVERY = tuple((name.lower(), name, (-1, 2)) for name in DATATYPES)


@pytest.fixture(scope="package", params=["native", "pyvoy", "uvicorn"])
def every(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp(f"contract-{request.param}")
    model = identity(directory / "every.onnx", EVERY)
    with serving(model, directory / "log", kind=request.param) as server:
        yield server
        assert "Traceback" not in (log := server.text), log
