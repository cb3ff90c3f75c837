"""Runs a client's checks in a process of its own: every function `check_*` of a script."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

DATATYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32,
    "UINT64": np.uint64, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32,
    "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
    "BYTES": np.object_,
}  # fmt: skip


def arrays() -> dict[str, Any]:
    """A [2, 2] array per datatype, with the values that get lost first; as `every` takes them."""
    found: dict[str, Any] = {}
    for name, kind in DATATYPES.items():
        if name == "BYTES":
            values: list[Any] = ["ä€😀", "", "a\x00b", "long " * 500]
        elif name == "BOOL":
            values = [True, False, False, True]
        elif name.startswith("FP"):
            info = np.finfo(kind)
            values = [info.max, info.tiny, -0.0, 1 / 3]
        else:
            limits = np.iinfo(kind)
            values = [limits.min, limits.max, 1, limits.max - 1]
        found[name.lower()] = np.array(values, dtype=kind).reshape(2, 2)
    return found


def same(name: str, got: Any, sent: Any) -> None:
    """Fail unless the arrays are equal, bit by bit; text may come back as bytes."""
    assert got is not None, f"{name}: nothing came back"
    if name == "bytes":
        got = np.array([v.decode() if isinstance(v, bytes) else v for v in got.ravel()], object)
        got = got.reshape(sent.shape)
    assert got.shape == sent.shape, f"{name}: {got.shape}"
    assert got.tolist() == sent.tolist(), f"{name}: {got.tolist()} is not {sent.tolist()}"
    if sent.dtype.kind == "f":
        assert got.dtype == sent.dtype, name
        assert np.signbit(got).tolist() == np.signbit(sent).tolist(), name


def refused(kind: type[BaseException], action: Callable[[], Any], *words: str) -> str:
    """The text of the error that `action` must raise, which must have the words in it."""
    try:
        action()
    except kind as error:
        text = f"{error} {getattr(error, 'status', lambda: '')()}"
        for word in words:
            assert word.lower() in text.lower(), f"no {word!r} in {text!r}"
        return text
    raise AssertionError("this must be refused")


def main(functions: dict[str, Any]) -> None:
    """Call every check with the server's ports; the exit status says whether all passed."""
    http, grpc = sys.argv[1:3]
    failed = 0
    for name, check in functions.items():
        if not name.startswith("check_"):
            continue
        try:
            result = check(http, grpc)
            if inspect.isawaitable(result):
                import asyncio

                asyncio.run(result)  # type: ignore[arg-type]
        except Exception:
            failed += 1
            print(f"FAILED {name}\n{traceback.format_exc()}")
        else:
            print(f"passed {name}")
    sys.exit(1 if failed else 0)
