"""What was fetched: its files, its identity, and whether it is whole."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from coalmine.modeldir import (
    MODEL_CARD,
    MODEL_FILE,
    ModelDirectoryError,
    check_network,
    load_card,
    model_digest,
)
from coalmine.sources._errors import DigestError
from coalmine.sources._onnx_file import is_whole_onnx

__all__ = ["check_content", "check_digest", "files_of", "principal", "sync", "tree_digest"]

SUMS_FILE = "SHA256SUMS"
_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_BLOCK = 1024**2


def files_of(directory: Path) -> list[Path]:
    """All files below, sorted. DigestError for a link, a device or another special file."""
    found = []
    for root, folders, names in os.walk(directory):
        for name in (*folders, *names):
            path = Path(root, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise DigestError(f"{path.relative_to(directory)}: a link or special file; refused")
        found += [Path(root, name) for name in names]
    return sorted(found)


def tree_digest(directory: Path) -> str:
    """sha256 over the names and contents of all files, in hexadecimal."""
    digest = hashlib.sha256()
    for path in files_of(directory):
        line = f"{_file_digest(path)}  {path.relative_to(directory).as_posix()}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def principal(directory: Path) -> Path | None:
    """The file that is the model, if there is no doubt: the only one, or the only network."""
    files = files_of(directory)
    if len(files) == 1:
        return files[0]
    networks = [path for path in files if path.suffix == ".onnx"]
    named = directory / MODEL_FILE
    return named if named in networks else networks[0] if len(networks) == 1 else None


def check_content(directory: Path) -> None:
    """DigestError if it is empty, cut off, or not what its own SHA256SUMS or card says."""
    files = files_of(directory)
    if not files:
        raise DigestError("there is nothing behind it")
    sums = directory / SUMS_FILE
    if sums.is_file():
        _check_sums(directory, sums)
    network = principal(directory)
    if network is not None and (directory / MODEL_CARD).is_file():
        try:
            check_network(network, load_card(directory))
        except ModelDirectoryError as error:
            raise DigestError(str(error).replace(f"{directory}{os.sep}", "")) from error
    for path in files:
        if path.suffix == ".onnx" and not is_whole_onnx(path):
            raise DigestError(f"{path.relative_to(directory)}: not a whole ONNX file")


def check_digest(directory: Path, wanted: str | None) -> None:
    """DigestError unless the sha256 is that of the model's file, its directory, or all its files.

    Of a directory with a card, the digest that the registry gives it counts too (`model_digest`).
    """
    if wanted is None:
        return
    found = [tree_digest(directory)]
    network = principal(directory)
    if network is not None:
        found.append(_file_digest(network))
    if (directory / MODEL_FILE).is_file() and (directory / MODEL_CARD).is_file():
        found.append(model_digest(directory).removeprefix("sha256:"))
    if wanted not in found:
        raise DigestError(f"its sha256 is {found[-1]}, not {wanted}")


def sync(directory: Path) -> None:
    """Have everything below on the disk itself when this returns."""
    folders = {path.parent for path in files_of(directory)} | {directory}
    for path in (*files_of(directory), *folders):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_sums(directory: Path, sums: Path) -> None:
    for number, line in enumerate(sums.read_text("utf-8", "replace").splitlines(), start=1):
        if not line.strip():
            continue
        match = _SUM.fullmatch(line.rstrip())
        if match is None:
            raise DigestError(f"{SUMS_FILE}, line {number}: not `sha256  file`")
        path = directory / match[2]
        if not path.resolve().is_relative_to(directory.resolve()) or not path.is_file():
            raise DigestError(f"{match[2]}: named in {SUMS_FILE}, and missing")
        if _file_digest(path) != match[1].lower():
            raise DigestError(f"{match[2]}: not the content that {SUMS_FILE} says")


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
