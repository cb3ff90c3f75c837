"""Fetching: from the cache, or in a process of its own, tried again, checked, then published."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from coalmine.sources._cache import Cache, default_cache
from coalmine.sources._content import check_content, check_digest, files_of
from coalmine.sources._errors import (
    CacheError,
    DigestError,
    FetchError,
    MissingExtraError,
    SourceError,
    UriError,
)
from coalmine.sources._uri import SCHEMES, Source, is_remote, parse, redacted

__all__ = ["Fetched", "fetch"]

_log = logging.getLogger("coalmine.sources")

_ATTEMPTS = 4
_FIRST_DELAY = 1.0
#: Seconds between two lines in the log about a download that takes its time.
_PROGRESS = 5.0
_ERRORS: dict[str, type[SourceError]] = {
    "extra": MissingExtraError,
    "cache": CacheError,
    "fetch": FetchError,
}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model on this machine."""

    path: Path
    """A directory; or a file, if that is all there is."""

    name: str | None = None
    """What its URI calls it; None for a local path, whose own name says it."""

    version: str | None = None
    """The registry's version, of a model that comes from one."""


def fetch(
    uri: str,
    *,
    cache: Path | None = None,
    attempts: int = _ATTEMPTS,
    delay: float = _FIRST_DELAY,
) -> Fetched:
    """The model at a URI, on this machine. Blocks. SourceError says what is wrong.

    A path or a `file:` URI is given back as it is. Anything else is asked for each time, since what
    is behind a URI may change, unless the URI is immutable (`#sha256=`, a commit of the hub) or
    names a registered version that is in the cache. A process that meets another fetching the same
    URI waits, and takes what that one got. `delay`: seconds before the second attempt, doubled for
    each further one.
    """
    if not is_remote(uri):
        return Fetched(_local(uri))
    source = parse(uri)
    store = Cache(cache or default_cache())
    stamp = store.stamp(uri)
    with store.fetching(uri):
        if source.is_immutable or store.stamp(uri) != stamp:
            found = store.find(uri)
            if found is not None:
                return _fetched(found[0], source, found[1].version)
        for attempt in range(1, attempts + 1):
            try:
                return _download(uri, source, store)
            except (FetchError, DigestError) as error:
                # A wrong content may be a download cut off; twice the same is what it is.
                again = attempt < (2 if isinstance(error, DigestError) else attempts)
                if isinstance(error, _Permanent) or not again:
                    raise
                wait = delay * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
                _log.warning("%s; trying again in %.1f s", error, wait)
                time.sleep(wait)
    raise AssertionError("unreachable: the last attempt returns or raises")


class _Permanent(FetchError):
    """Trying again cannot help."""


def _local(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.scheme != "file":
        if "://" in uri:
            allowed = ", ".join(("file", *SCHEMES))
            raise UriError(f"{redacted(uri)}: not a URI of a model; its scheme is one of {allowed}")
        return Path(uri)
    if parts.netloc not in ("", "localhost"):
        raise UriError(f"{uri}: names another machine; a local path has three slashes, file:///")
    return Path(unquote(parts.path))


def _download(uri: str, source: Source, store: Cache) -> Fetched:
    shown = redacted(source.uri)
    with store.incoming() as place:
        result = _run(source, place, store.root)
        cached = result.get("cached")
        if cached is not None:
            found = store.find(cached)
            if found is not None:
                return _fetched(found[0], source, found[1].version)
        if "error" in result:
            kind = _ERRORS[result["kind"]]
            if kind is FetchError and result["permanent"]:
                kind = _Permanent
            raise kind(f"{shown}: {result['error']}")
        model = place / result["model"]
        try:
            files = files_of(model)
            check_content(model)
            check_digest(model, source.digest)
        except DigestError as error:
            raise DigestError(f"{shown}: {error}") from error
        size = sum(path.stat().st_size for path in files)
        version = result["version"]
        keys = [uri, *([result["identity"]] if result["identity"] else [])]
        path = store.publish(model, keys=keys, version=version)
        _log.info("fetched %s: %d files, %s", shown, len(files), _readable(size))
    return _fetched(path, source, version)


def _fetched(path: Path, source: Source, version: str | None) -> Fetched:
    files = files_of(path)
    alone = len(files) == 1 and files[0].parent == path and files[0].suffix == ".onnx"
    return Fetched(files[0] if alone else path, source.name, version)


def _run(source: Source, place: Path, root: Path) -> dict[str, str]:
    """Let another process download into `place`; what it says of it."""
    # The libraries behind it are many and large, start processes of their own and read the whole
    # environment: a server should neither hold nor run them.
    command = [sys.executable, "-m", "coalmine.sources._download", str(place), str(root)]
    scratch = place / "tmp"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
        )
    try:
        assert process.stdin is not None
        # Not an argument: everybody on the machine may read those, and URIs may hold passwords.
        process.stdin.write(json.dumps(asdict(source)).encode())
        process.stdin.close()
        while True:
            try:
                process.wait(_PROGRESS)
                break
            except subprocess.TimeoutExpired:
                _log.info("fetching %s: %s so far", redacted(source.uri), _readable(_size(place)))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    try:
        result: dict[str, str] = json.loads((place / "result.json").read_bytes())
    except (OSError, ValueError):
        tail = redacted((place / "log").read_text("utf-8", "replace").strip()[-300:])
        problem = f"the download ended with {process.returncode}: {tail}"
        return {"error": problem, "kind": "fetch", "permanent": ""}
    return result


def _size(place: Path) -> int:
    total = 0
    for path in place.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            pass  # renamed or removed meanwhile
    return total


def _readable(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
