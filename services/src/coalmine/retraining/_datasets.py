"""Training sets by their content: what each was made from, so that it can be made again.

A directory holds three files for each, named by the SHA-256 of the first:

- `<hex>.parquet`      the rows
- `<hex>.json`         the manifest: sources, filters, label watermark, and a summary of the rows
- `<hex>.parquet.dvc`  a pointer as DVC 3 writes it, for those who keep data with DVC

The manifest names the function that makes the rows from their sources (`recipe`, as
`module:function`), since only the application knows how. The same sources give the same bytes, so
the digest proves it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.retraining._dataset_summary import difference, summarise
from coalmine.retraining._errors import (
    DatasetChanged,
    DatasetMissing,
    NotEnoughData,
    RetrainingError,
)
from coalmine.retraining._files import file_digest, write_json
from coalmine.retraining.learning import read_rows, training_set_path, write_rows

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "copy_stored",
    "describe_training_set",
    "difference",
    "ensure_stored",
    "find_training_set",
    "list_training_sets",
    "recreate",
]

#: What makes a training set's rows again: its sources, the digest of the training set of the
#: champion (or none), the directory of training sets, and a directory for what it writes meanwhile.
Recipe = Callable[..., "pa.Table"]

_FORMAT = 1
_PREFIX = "sha256:"
_SHORTEST = 4


def describe_training_set(
    digest: str,
    *,
    data: Path,
    recipe: str,
    source: Mapping[str, Any],
    parent: str | None,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Write the manifest and the DVC pointer of a training set that is in `data`.

    `source` is what `recipe` needs to read the recent rows again; `parent` the digest of the
    training set that the champion was made from. A manifest that is there stays: the first run that
    made the content is the one that is known.
    """
    path = training_set_path(digest, data=data)
    _write_pointer(path)
    if _manifest_path(digest, data).exists():
        return
    manifest = {
        "format": _FORMAT,
        "digest": digest,
        "created": clock.time(),
        "bytes": path.stat().st_size,
        "recipe": recipe,
        "source": dict(source),
        "parent": parent,
        "summary": summarise(read_rows(path)),
    }
    write_json(_manifest_path(digest, data), manifest)


def list_training_sets(data: Path) -> list[dict[str, Any]]:
    """The manifests of all training sets, newest first."""
    found = [_read(path) for path in sorted(data.glob("*.json"))]
    return sorted(found, key=lambda manifest: manifest["created"], reverse=True)


def find_training_set(given: str, *, data: Path) -> dict[str, Any]:
    """The manifest of a digest, or of the only one that begins so; `DatasetMissing` if none is."""
    wanted = given.removeprefix(_PREFIX).lower()
    if len(wanted) < _SHORTEST or not all(letter in "0123456789abcdef" for letter in wanted):
        raise DatasetMissing(f"{given!r} is not a digest: give at least {_SHORTEST} hex digits")
    found = sorted(data.glob(f"{wanted}*.json"))
    if len(found) == 1:
        return _read(found[0])
    if found:
        names = ", ".join(path.stem[:12] for path in found[:5])
        raise DatasetMissing(f"{given!r} may be any of {names}: give more of it")
    if list(data.glob(f"{wanted}*.parquet")):
        raise DatasetMissing(f"{given!r} was stored without a manifest, by an earlier release")
    raise DatasetMissing(f"there is no training set {given!r} in {data}; see: coalmine data list")


def recreate(manifest: Mapping[str, Any], *, data: Path, out: Path) -> None:
    """Make a training set again from its sources, at `out`.

    `DatasetMissing` says which source is gone; `DatasetChanged` that what was made has another
    digest, and what differs from the summary. `out` is written only if all is well.
    """
    with tempfile.TemporaryDirectory(prefix="coalmine-data-") as scratch:
        made = Path(scratch) / "made.parquet"
        recipe = _load(manifest["recipe"])
        try:
            rows = recipe(
                manifest["source"], parent=manifest["parent"], data=data, scratch=Path(scratch)
            )
        except NotEnoughData as error:
            days = ", ".join(manifest["summary"]["days"])
            raise DatasetMissing(
                f"its records are gone, they may have expired: {error}; it was made from records "
                f"of {days}"
            ) from error
        write_rows(rows, made)
        if file_digest(made) != manifest["digest"]:
            raise DatasetChanged(_difference(manifest["summary"], summarise(rows)))
        _publish(made, out)


def copy_stored(manifest: Mapping[str, Any], *, data: Path, out: Path) -> None:
    """Copy the kept rows to `out`, their digest checked."""
    path = training_set_path(manifest["digest"], data=data)
    if not path.exists():
        raise DatasetMissing(f"{path} is gone; without --stored it is made again from its sources")
    if file_digest(path) != manifest["digest"]:
        raise DatasetChanged(f"{path} is not what was stored: its digest is {file_digest(path)}")
    _publish(path, out)


def ensure_stored(digest: str, *, data: Path) -> Path:
    """Where a training set is kept; made again from its sources if it is not."""
    path = training_set_path(digest, data=data)
    if not path.exists():
        recreate(find_training_set(digest, data=data), data=data, out=path)
    return path


def _load(recipe: str) -> Recipe:
    module, _, name = recipe.partition(":")
    try:
        function: Recipe = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RetrainingError(f"the recipe {recipe!r} of the manifest: {error}") from error
    return function


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is missing, for a person."""
    days: Sequence[str] = sorted({*before["days"], *now["days"]})
    gone = [
        f"{day}: {now['days'].get(day, 0)} of {before['days'].get(day, 0)} rows"
        for day in days
        if now["days"].get(day, 0) != before["days"].get(day, 0)
    ]
    if gone:
        shown = "; ".join(gone[:10]) + ("; ..." if len(gone) > 10 else "")
        return f"its records are not all there any more, they may have expired: {shown}"
    if before["classes"] != now["classes"]:
        return f"its labels differ: {before['classes']} then, {now['classes']} now"
    return "the rows are as many, but their content differs: another release may have made them"


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            raise ValueError(f"format {found['format']!r} is unknown to this release")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetMissing(f"{path}: not a manifest that can be read: {error}") from error
    return found


def _manifest_path(digest: str, data: Path) -> Path:
    return data / f"{digest.removeprefix(_PREFIX)}.json"


def _publish(path: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        shutil.copyfile(path, scratch)
        os.replace(scratch, out)
    finally:
        scratch.unlink(missing_ok=True)


def _write_pointer(path: Path) -> None:
    """`<file>.dvc`: one output, by MD5, which is how DVC addresses content."""
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    text = f"outs:\n- md5: {md5}\n  size: {path.stat().st_size}\n  hash: md5\n  path: {path.name}\n"
    pointer = path.with_name(f"{path.name}.dvc")
    scratch = pointer.with_name(f".{pointer.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, pointer)
