"""The package's door: complete, sorted, and cheap to pass."""

from __future__ import annotations

import subprocess
import sys

import coalmine.serving


def test_all_is_sorted_and_every_name_is_there() -> None:
    assert list(coalmine.serving.__all__) == sorted(coalmine.serving.__all__)
    for name in coalmine.serving.__all__:
        if name not in ("KServeTransformer", "Predictor"):  # KServe takes seconds to import
            assert getattr(coalmine.serving, name).__name__


def test_the_import_is_cheap() -> None:
    check = (
        "import sys, coalmine.serving; "
        "print([m for m in ('numpy', 'kserve', 'onnxruntime', 'pyarrow', 'grpc', 'fastapi', "
        "'coalmine.rollout', 'coalmine.retraining', 'coalmine_transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_option() -> None:
    command = [sys.executable, "-m", "coalmine.serving", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for flag in (
        "--name --port --arm --version --transformer --records --spool --server --threads "
        "--max-body --max-concurrency --max-queue-rows --max-spool"
    ).split():
        assert flag in text
