"""The model that a reference is built for: a directory, or a version in MLflow."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from coalmine.cli._errors import CommandError
from coalmine.modeldir import MODEL_FILE, REFERENCE_FILE

__all__ = ["Place", "opened", "read_table"]

_REGISTERED = re.compile(r"models:/+([^/@]+)(?:/(\d+)|@([A-Za-z0-9_-]+))")


@dataclass(frozen=True)
class Place:
    """Where a model is, and where its reference goes."""

    directory: Path
    predict: Callable[[Any], Any] | None
    keep: Callable[[Path], str]
    """Takes the written file to where it belongs; says where that is."""

    def store(self, rows: pa.Table, *, output: Path | None) -> str:
        """Write the rows, whole or not at all; where they are."""
        if output is not None:
            _write(rows, output)
            return str(output)
        path = self.directory / REFERENCE_FILE
        _write(rows, path)
        return self.keep(path)


@contextmanager
def opened(model: str, *, state: Path | None, tracking_uri: str | None) -> Iterator[Place]:
    """The model; CommandError says what is wrong with its name."""
    if not model.startswith("models:"):
        directory = Path(model.removeprefix("file://"))
        if not directory.is_dir():
            raise CommandError(
                f"--model {model}: no such directory (a registered model is models:/NAME/VERSION)"
            )
        yield Place(directory, _network(directory), str)
        return
    match = _REGISTERED.fullmatch(model)
    if match is None:
        raise CommandError(f"--model {model}: not models:/NAME/VERSION or models:/NAME@ALIAS")
    with tempfile.TemporaryDirectory(prefix="coalmine-reference-") as scratch:
        registry = _registry(match[1], state=state, tracking_uri=tracking_uri, scratch=scratch)
        version = match[2] or _of_alias(registry, match[3])
        directory = registry.source(version, into=Path(scratch))

        def keep(path: Path) -> str:
            registry.put_reference(version, path)
            if state is not None:
                registry.materialise(version)
            return f"models:/{match[1]}/{version}, {REFERENCE_FILE}"

        yield Place(directory, _network(directory), keep)


def read_table(path: Path) -> pa.Table:
    """A table of any of the formats; CommandError if it is none of them."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            from pyarrow import csv

            return csv.read_csv(path)
        if suffix in (".parquet", ".pq"):
            from pyarrow import parquet

            return parquet.read_table(path)
        if suffix in (".arrow", ".feather", ".ipc", ".arrows"):
            return _ipc(path)
    except (pa.ArrowException, OSError) as error:
        raise CommandError(f"{path}: cannot be read as {suffix[1:]}: {error}") from None
    raise CommandError(f"{path}: .csv, .parquet or .arrow is expected, by its name")


def _ipc(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        try:
            return pa.ipc.open_file(file).read_all()
        except pa.ArrowInvalid:
            file.seek(0)
            return pa.ipc.open_stream(file).read_all()


def _network(directory: Path) -> Callable[[Any], Any] | None:
    if not (directory / MODEL_FILE).is_file():
        return None

    def predict(tensors: Any) -> Any:
        from coalmine.serving import OnnxModel

        if not network:
            network.append(OnnxModel(directory / MODEL_FILE))
        return network[0].run(tensors)

    network: list[Any] = []  # made by the first call: it may not be needed
    return predict


def _registry(name: str, *, state: Path | None, tracking_uri: str | None, scratch: str) -> Any:
    from coalmine.retraining import MlflowRegistry, local_registry

    if state is not None:
        if not (state / "mlflow.db").is_file():
            raise CommandError(f"--state {state}: there is no registry (mlflow.db) in it")
        return local_registry(name, state=state)
    if tracking_uri is None:
        raise CommandError(
            f"models:/{name}: say which registry, with --state DIR (of a stack) or --tracking-uri"
        )
    folder = Path(scratch)
    return MlflowRegistry(
        tracking_uri=tracking_uri, artifacts=folder / "new", models=folder / "models", name=name
    )


def _of_alias(registry: Any, alias: str) -> str:
    for known in registry.versions():
        if alias in known.aliases:
            return str(known.version)
    raise CommandError(f"models:/{registry.name}@{alias}: no version has that alias")


def _write(rows: pa.Table, path: Path) -> None:
    from pyarrow import parquet

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        parquet.write_table(rows, temporary, compression="zstd")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
