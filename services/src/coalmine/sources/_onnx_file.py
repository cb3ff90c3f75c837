"""What can be told of an ONNX file without ONNX: whether it is whole, and what lies beside it."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import BinaryIO

__all__ = ["external_files", "is_whole_onnx"]

#: Fields of ModelProto (onnx.proto): a model has a version and a graph, and little else.
_IR_VERSION, _GRAPH = 1, 7
_MOST_FIELD = 30
#: How a tensor says that its values are in a file: an entry of a map, and where its value begins.
_LOCATION = b"\n\x08location\x12"


def is_whole_onnx(path: Path) -> bool:
    """Whether the top-level fields of the protobuf message end where the file does.

    The graph is one field with its length before it, so a file that was cut off anywhere fails.
    """
    size = path.stat().st_size
    seen: set[int] = set()
    with path.open("rb") as file:
        try:
            while file.tell() < size:
                field, kind = divmod(_varint(file), 8)
                seen.add(field)
                if not 0 < field <= _MOST_FIELD:
                    return False
                if kind == 0:
                    _varint(file)
                elif kind == 2:
                    file.seek(_varint(file), 1)
                elif kind in (1, 5):
                    file.seek(8 if kind == 1 else 4, 1)
                else:
                    return False
        except EOFError:
            return False
        return file.tell() == size and {_IR_VERSION, _GRAPH} <= seen


def external_files(path: Path) -> list[Path]:
    """The files beside a network that hold its weights, as it names them, if they are there."""
    if not path.stat().st_size:
        return []
    names: set[bytes] = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        at = view.find(_LOCATION)
        while at != -1:
            file.seek(at + len(_LOCATION))
            try:
                names.add(file.read(_varint(file)))
            except EOFError:
                break
            at = view.find(_LOCATION, at + 1)
    folder = path.parent.resolve()
    found = {(folder / name.decode(errors="replace").replace("\0", "")).resolve() for name in names}
    return sorted(file for file in found if file.is_relative_to(folder) and file.is_file())


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise EOFError
