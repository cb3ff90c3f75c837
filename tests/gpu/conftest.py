"""What needs a GPU: everything in this folder is skipped, with the reason, where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coalmine.serving._providers import why_not

HERE = Path(__file__).parent


def reason() -> str | None:
    """Why CUDA cannot be used here; None: it can."""
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return why_not("cuda")
    from coalmine.serving._providers import device_error

    return device_error()


def pytest_collection_modifyitems(items: list[Any]) -> None:
    here = [item for item in items if item.path.is_relative_to(HERE)]
    if here and (missing := reason()) is not None:
        for item in here:
            item.add_marker(pytest.mark.skip(reason=f"no GPU: {missing}"))
