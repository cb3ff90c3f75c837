"""ONNX Runtime: a network as a function of arrays, with the signature it declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from coalmine.protocol import Array, Signature, SignatureError, Tensors, TensorSpec
from coalmine.serving._errors import ModelLoadError

__all__ = ["OnnxModel"]

_PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxModel:
    """A loaded network. `run` may be called from several threads at once."""

    platform = "onnxruntime_onnx"
    batchable = True

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 1,
        providers: tuple[str, ...] = ("cpu",),
        require_gpu: bool = False,
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A spinning thread saves microseconds and burns a core that another arm could use.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=_choose(providers, require_gpu=require_gpu)
            )
        except ModelLoadError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            raise ModelLoadError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        self.providers: list[str] = self._session.get_providers()
        if require_gpu and self.providers[0] == _PROVIDERS["cpu"]:
            raise ModelLoadError(f"{path}: a GPU is required, but the network runs on the CPU")
        self.signature = Signature(
            tuple(_spec(path, tensor) for tensor in self._session.get_inputs()),
            tuple(_spec(path, tensor) for tensor in self._session.get_outputs()),
        )
        self._names = [spec.name for spec in self.signature.outputs]
        self._texts = [spec.name for spec in self.signature.inputs if spec.datatype == "BYTES"]

    def run(self, tensors: Tensors) -> Tensors:
        """The network's outputs. SignatureError for BYTES that are not UTF-8 text."""
        feed = tensors
        if self._texts:
            feed = dict(tensors)
            for name in self._texts:
                feed[name] = _as_text(name, tensors[name])
        return dict(zip(self._names, self._session.run(self._names, feed), strict=True))

    def close(self) -> None:
        """Nothing to do: the session's memory goes with the object."""


def _choose(wanted: tuple[str, ...], *, require_gpu: bool) -> list[str]:
    unknown = [name for name in wanted if name not in _PROVIDERS]
    if unknown or not wanted:
        allowed = ", ".join(_PROVIDERS)
        raise ModelLoadError(f"providers: {', '.join(unknown) or 'none'}; allowed: {allowed}")
    present = set(ort.get_available_providers())
    chosen = [_PROVIDERS[name] for name in wanted if _PROVIDERS[name] in present]
    if require_gpu and not any(name != _PROVIDERS["cpu"] for name in chosen):
        raise ModelLoadError(
            f"a GPU is required, but this ONNX Runtime has only: {', '.join(sorted(present))}"
        )
    return chosen or [_PROVIDERS["cpu"]]


def _spec(path: Path, tensor: Any) -> TensorSpec:
    datatype = _DATATYPES.get(tensor.type)
    if datatype is None:
        raise ModelLoadError(
            f"{path}: {tensor.name!r} is a {tensor.type}, which cannot be served; a classifier "
            "converted from scikit-learn or LightGBM needs the option zipmap=False"
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in tensor.shape)
    return TensorSpec(tensor.name, datatype, shape)


def _as_text(name: str, array: Array) -> Array:
    try:
        texts = [value.decode() for value in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise SignatureError(f"input {name!r}: BYTES that are not UTF-8 text") from None
    return np.array(texts, dtype=np.object_).reshape(array.shape)
