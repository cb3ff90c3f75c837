"""What every peer's server runs: the same ONNX Runtime session, with one thread."""

from __future__ import annotations

from typing import Any

import onnxruntime

INPUT, OUTPUT = "input", "output"


def open_session(model: str) -> Any:
    """A session on the CPU; a thread pool of its own would only contend for the one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
