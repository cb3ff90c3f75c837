"""Where records go, and where they wait on the way: what the options leave open is settled here."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from coalmine.serving._errors import StartupError
from coalmine.serving._options import ServeOptions

__all__ = ["settle_records"]

_OFF = "off"
_SQLITE = "sqlite:///"


def settle_records(options: ServeOptions) -> ServeOptions:
    """The options with a place for records and a spool, or without both.

    StartupError if `records` is no place for them; said before anything is loaded.
    """
    url = options.records
    if url is None or url == _OFF:
        if options.spool is not None:
            raise StartupError("--spool is for records, and --records names no place for them")
        return replace(options, records=None)
    _check(url)
    return replace(options, spool=options.spool or _default_spool(options, url))


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_collector = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # ValueError for one that is no number
    except ValueError as error:
        raise StartupError(f"--records: {url!r}: {error}") from error
    is_file = url.startswith(_SQLITE) and len(url) > len(_SQLITE) and not url.endswith("/")
    if not (is_collector or is_file):
        raise StartupError(
            f"--records: {url!r} is nowhere to keep records; allowed: sqlite:///FILE (four slashes "
            "before an absolute path), http://HOST:PORT of a collector, or off"
        )


def _default_spool(options: ServeOptions, url: str) -> Path:
    """Next to the SQLite file, or in the user's state directory; of one arm of one model.

    Two servers must not share a spool, and the next one of the same model ships what was left.
    """
    own = f"{_slug(options)}-{options.arm}"
    if url.startswith(_SQLITE):
        file = Path(url.removeprefix(_SQLITE)).absolute()
        return file.with_name(f"{file.name}.spool") / own
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "coalmine" / "spool" / own


def _slug(options: ServeOptions) -> str:
    """The model's name as far as it is known before it is loaded."""
    if options.name is not None:
        name = options.name
    else:
        path = urlsplit(options.model).path or options.model
        segments = [part for part in path.split("/") if part not in ("", ".", "..")]
        name = segments[-1] if segments else Path.cwd().name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.removesuffix(".onnx")).strip("-") or "model"
