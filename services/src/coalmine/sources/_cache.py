"""The cache of fetched models, by content; several processes may use it at once.

    content/SHA256/...      a model, whole; the name is the digest over all its files
    known/SHA256.json       of a URI (or what it resolved to): which content it was last
    known/SHA256.lock       held by who fetches this URI now
    incoming/ID/            a download in the making; of nobody, once its lock is free

Everything in it may be deleted while no server starts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from coalmine.sources._content import sync, tree_digest
from coalmine.sources._errors import CacheError, DigestError

__all__ = ["Cache", "Known", "default_cache"]


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/coalmine/models`, or below `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "coalmine" / "models"


@dataclass(frozen=True, slots=True)
class Known:
    """What a URI was when it was last fetched."""

    content: str
    """The digest over its files."""

    version: str | None = None
    """What its registry calls it."""


class Cache:
    """The directory. CacheError, with the reason, for what it cannot hold."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        with _explained(self._root):
            for name in ("content", "known", "incoming"):
                (self._root / name).mkdir(parents=True, exist_ok=True)

    @property
    def root(self) -> Path:
        """Where it is."""
        return self._root

    def find(self, key: str) -> tuple[Path, Known] | None:
        """The content last known under a key, if it is here and undamaged."""
        try:
            known = Known(**json.loads(self._known(key).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        path = self._root / "content" / known.content
        try:
            intact = path.is_dir() and tree_digest(path) == known.content
        except (DigestError, OSError):
            intact = False
        return (path, known) if intact else None

    def stamp(self, key: str) -> int:
        """Changes whenever something is published under the key."""
        try:
            return self._known(key).stat().st_mtime_ns
        except OSError:
            return 0

    def publish(self, directory: Path, *, keys: list[str], version: str | None) -> Path:
        """Move a whole download into its place, and note it under its keys; both at once or not."""
        with _explained(self._root):
            content = tree_digest(directory)
            target = self._root / "content" / content
            sync(directory)
            self._move(directory, target, content)
            _sync_directory(target.parent)
            for key in keys:
                self._note(key, Known(content, version))
        return target

    @contextmanager
    def fetching(self, key: str) -> Iterator[None]:
        """Hold the key alone among all processes."""
        with _explained(self._root):
            file = self._known(key).with_suffix(".lock").open("a")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """An empty directory for a download; gone afterwards, also after a crash, in time."""
        self._sweep()
        place = self._root / "incoming" / uuid.uuid4().hex
        with _explained(self._root):
            place.mkdir()
            lock = (place / "lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield place
            finally:
                shutil.rmtree(place, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what killed processes left."""
        for place in (self._root / "incoming").iterdir():
            with contextlib.suppress(OSError), (place / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place, ignore_errors=True)

    def _move(self, directory: Path, target: Path, content: str) -> None:
        try:
            directory.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if tree_digest(target) == content:
                return  # the same content is here already
            target.rename(directory.with_name("damaged"))
            directory.rename(target)

    def _known(self, key: str) -> Path:
        return self._root / "known" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"

    def _note(self, key: str, known: Known) -> None:
        path = self._known(key)
        scratch = path.with_suffix(f".{uuid.uuid4().hex}")
        with scratch.open("w") as file:
            json.dump(asdict(known), file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        _sync_directory(path.parent)


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(f"the model cache {root}: {error.strerror or error}") from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
