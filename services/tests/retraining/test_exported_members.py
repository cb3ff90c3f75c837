"""The package's door: complete, and light."""

from __future__ import annotations

import subprocess
import sys

import coalmine.retraining
from coalmine.retraining import learning


def test_what_is_exported_is_there() -> None:
    for module in (coalmine.retraining, learning):
        assert all(hasattr(module, name) for name in module.__all__)


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = ("mlflow", "kfp", "pandas", "lightgbm", "fastapi", "onnx")
    script = "import sys, coalmine.retraining, coalmine.retraining.learning\n"
    script += f"print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
