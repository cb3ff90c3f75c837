"""The package's door: complete and light."""

from __future__ import annotations

import subprocess
import sys

import coalmine.protocol


def test_all_is_complete() -> None:
    exported = coalmine.protocol.__all__
    public = {name for name in vars(coalmine.protocol) if not name.startswith("_")}
    assert public - {"annotations", "protobuf"} == set(exported)


def test_the_import_needs_neither_protobuf_nor_kserve_nor_onnxruntime() -> None:
    check = (
        "import sys, coalmine.protocol; "
        "print([m for m in ('google.protobuf', 'kserve', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
