"""What the server's sources offer now: which models, of which version, with which content.

One source is a model (a directory with `model.onnx`, an MLflow model, a bare `.onnx` file, a URI),
a model in numbered versions (`2/model.onnx`; the highest is offered), or a directory of such
models, each by its own name. A directory is looked at whenever somebody asks: models come and go.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from coalmine.modeldir import MODEL_CARD, MODEL_FILE
from coalmine.serving._errors import ModelLoadError
from coalmine.serving._options import ServeOptions
from coalmine.serving._python import is_dotted
from coalmine.sources import SourceError, external_files, fetch, is_remote

__all__ = ["Catalogue", "Offer", "Place", "content_digest", "fingerprint"]

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)=(?P<uri>.+)")
#: Files that make a directory a model.
_MARKS = (MODEL_FILE, "MLmodel")
_BLOCK = 1024**2


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that can be loaded."""

    name: str | None
    """None: the model's own, from its card or its file."""

    uri: str
    version: str | None = None
    """None: its source has no name for it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the content of an offer is on this machine, once it has been fetched."""

    name: str | None
    uri: str
    """Of the content: a path, or the offer's own URI if that is none (`package.module:Class`)."""

    version: str | None
    path: Path | None


@contextmanager
def _reading() -> Iterator[None]:
    """What the server's user may not read is said to whoever starts it, by its path."""
    try:
        yield
    except OSError as error:
        raise ModelLoadError(f"{error.filename}: {error.strerror}") from error


class Catalogue:
    """The sources of one server. ModelLoadError says which of them makes no sense."""

    def __init__(self, options: ServeOptions) -> None:
        named = [_split(uri) for uri in (options.model, *options.also)]
        if len(named) > 1:
            nameless = [uri for name, uri in named if name is None]
            if nameless:
                raise ModelLoadError(
                    f"{nameless[0]}: several models need a name each: NAME={nameless[0]}"
                )
            names = [name for name, _ in named]
            twice = sorted({str(name) for name in names if names.count(name) > 1})
            if twice:
                raise ModelLoadError(f"the model name {twice[0]} is given twice")
            if options.name is not None:
                raise ModelLoadError("--name is for one model; with several, say NAME=URI")
        self._named = named
        self._name = options.name
        self._cache = options.model_cache

    @property
    @_reading()
    def holds_several(self) -> bool:
        """Whether there can be more models than one."""
        if len(self._named) > 1:
            return True
        ((name, uri),) = self._named
        folder = local_path(uri)
        return (self._name or name) is None and folder is not None and _holds_models(folder)

    def call_it(self, name: str) -> None:
        """From now on the only model has this name, whatever its card will say."""
        self._name = name

    def place(self, offer: Offer) -> Place:
        """Fetch what is elsewhere. Blocks; ModelLoadError if it cannot be had."""
        if not is_remote(offer.uri):
            return Place(offer.name, offer.uri, offer.version, local_path(offer.uri))
        try:
            fetched = fetch(offer.uri, cache=self._cache)
        except SourceError as error:
            raise ModelLoadError(str(error)) from error
        content = _offer(None, str(fetched.path))  # which may be a model in numbered versions
        path = Path(content.uri)
        # A card says the model's name itself.
        name = offer.name or (None if (path / MODEL_CARD).is_file() else fetched.name)
        version = offer.version or fetched.version or content.version
        return Place(name, content.uri, version, path)

    @_reading()
    def offers(self) -> list[Offer]:
        """All that can be loaded now, by name."""
        if len(self._named) > 1:
            return [_offer(name, uri) for name, uri in self._named]
        ((name, uri),) = self._named
        folder = local_path(uri)
        if folder is None or not self.holds_several:
            return [_offer(self._name or name, uri)]
        return [
            _offer(path.stem if path.is_file() else path.name, str(path))
            for path in _entries(folder)
            if _is_model(path)
        ]


def local_path(uri: str) -> Path | None:
    """The path that a URI names on this machine; None if it is elsewhere."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    # `my_model:Mean` is no path either, and urlsplit finds no scheme in it: `_` is in none.
    if (parts.scheme and ":" in uri) or is_dotted(uri):
        return None
    return Path(uri)


def fingerprint(path: Path) -> tuple[tuple[str, int, int, int], ...]:
    """What changes when a model's files do, read without reading them."""
    found = []
    for file in _files(path):
        stat = file.stat()
        found.append((str(file), stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return tuple(found)


@_reading()
def content_digest(path: Path) -> str:
    """`sha256:` digest over all files of a model directory, or over a bare file and its weights.

    ModelLoadError names a file that cannot be read.
    """
    digest = hashlib.sha256()
    for file in _files(path):
        name = file.relative_to(path) if path.is_dir() else file.name if file != path else ""
        digest.update(f"{name}:{file.stat().st_size}:".encode())
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _split(uri: str) -> tuple[str | None, str]:
    match = _NAMED.fullmatch(uri)
    if match is None or Path(uri).exists():
        return None, uri
    return match["name"], match["uri"]


def _offer(name: str | None, uri: str) -> Offer:
    folder = local_path(uri)
    if folder is None or not folder.is_dir() or _marked(folder):
        return Offer(name, uri)
    newest = max(_versions(folder), key=lambda path: int(path.name), default=None)
    if newest is None:
        return Offer(name, uri)
    return Offer(name or folder.resolve().name, str(newest), newest.name)


def _holds_models(folder: Path) -> bool:
    if not folder.is_dir() or _is_model(folder):
        return False
    return any(_is_model(path) for path in _entries(folder))


def _is_model(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".onnx"
    return path.is_dir() and (_marked(path) or any(_versions(path)))


def _marked(folder: Path) -> bool:
    if any((folder / mark).is_file() for mark in _MARKS):
        return True
    # A card describes the network beside it, whatever that is called.
    return (folder / MODEL_CARD).is_file() and len(list(folder.glob("*.onnx"))) == 1


def _versions(folder: Path) -> Iterator[Path]:
    """Numbered versions; one that is still being copied has no model in it yet."""
    for path in _entries(folder):
        if path.name.isdecimal() and path.is_dir() and _marked(path):
            yield path


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    stat = path.stat()
    return [path, *_weights(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)]


@functools.lru_cache(maxsize=256)
def _weights(network: Path, *_: int) -> tuple[Path, ...]:
    """Files of a bare network's weights; it is read for that once, and again when it changes."""
    return tuple(external_files(network))
