"""ONNX Runtime: a network as a function of arrays, with the signature it declares."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from coalmine.protocol import (
    Array,
    InputRefusedError,
    ProtocolError,
    Signature,
    SignatureError,
    Tensors,
    TensorSpec,
)
from coalmine.serving._cpus import thread_count
from coalmine.serving._errors import ModelLoadError
from coalmine.serving._lanes import GraphLane, HostLane, Lanes, Plan, plan_for
from coalmine.serving._onnx_refusal import why_refused
from coalmine.serving._options import ServeOptions
from coalmine.serving._providers import (
    PROVIDERS,
    RuntimeOptions,
    check_providers,
    provider_options,
)
from coalmine.serving._rows import computes_rows_apart
from coalmine.serving._session import open_session, read_session

__all__ = ["OnnxModel", "runtime_options"]

_log = logging.getLogger("coalmine.serving")
_GPU_LANES = 2
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


def runtime_options(options: ServeOptions) -> RuntimeOptions:
    """What a server's options say about ONNX Runtime."""
    shared = (field.name for field in fields(RuntimeOptions))
    settings = {name: getattr(options, name) for name in shared}
    return RuntimeOptions(
        **{**settings, "threads": thread_count(options.threads, processes=options.processes)}
    )


class OnnxModel:
    """A loaded network. `run` may be called from several threads at once."""

    platform = "onnxruntime_onnx"

    def __init__(self, path: Path, options: RuntimeOptions | None = None) -> None:
        options = RuntimeOptions() if options is None else options
        check_providers(options)
        plan: Plan | None = None
        if set(options.providers) != {"cpu"}:  # a GPU's provider must know the inputs beforehand
            plan = plan_for(
                _signature(path, read_session(path)),
                max_rows=options.gpu_batch_rows,
                device=options.device,
            )
        self._lanes: Lanes | None = None
        self._session: Any = None
        if options.cuda_graphs and plan is not None:
            self._session, self._lanes = _with_graphs(path, options, plan)
        if self._session is None:
            self._session = _connect(path, replace(options, cuda_graphs=False), plan)
        self.providers: list[str] = self._session.get_providers()
        self.signature = _signature(path, self._session)
        #: An output that says it has other rows than the batch cannot be dealt out to callers.
        self.batchable = all(spec.shape[:1] in ((-1,), ()) for spec in self.signature.outputs)
        on_gpu = self.providers[0] != PROVIDERS["cpu"]
        #: Batches that may be computed at once.
        self.runners = _GPU_LANES if on_gpu else 1
        #: Rows of the largest batch worth forming; None: the network sets no limit.
        self.max_batch_rows = plan.buckets[-1] if on_gpu and plan and plan.batched else None
        if on_gpu and plan is not None and self._lanes is None:
            self._lanes = _copying(path, self._session, plan)
        self._names = [spec.name for spec in self.signature.outputs]
        #: The session below ONNX Runtime's Python wrapper, which looks at every input again and at
        #: capture modes of another provider: a third of the time that a small network takes.
        self._run = getattr(self._session, "_sess", self._session).run
        self._texts = [spec.name for spec in self.signature.inputs if spec.datatype == "BYTES"]
        self._check_rows(path)

    def run(self, tensors: Tensors) -> Tensors:
        """The network's outputs.

        SignatureError for BYTES that are not UTF-8 text; InputRefusedError if the network cannot
        take these numbers or sizes.
        """
        try:
            return self._compute(tensors)
        except ProtocolError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            inputs = self._session.get_inputs()
            reason = why_refused(error, tensors, inputs, batched=self.signature.batched)
            if reason is None:
                raise
            raise InputRefusedError(reason) from error

    def _compute(self, tensors: Tensors) -> Tensors:
        if self._lanes is not None:
            return self._lanes.run(tensors)
        feed = tensors
        if self._texts:
            feed = dict(tensors)
            for name in self._texts:
                feed[name] = _as_text(name, tensors[name])
        return dict(zip(self._names, self._run(self._names, feed, None), strict=True))

    def _check_rows(self, path: Path) -> None:
        """Find out whether the first size that is free is a batch."""
        inputs = self.signature.inputs
        if not (self.batchable and inputs and all(spec.shape[:1] == (-1,) for spec in inputs)):
            return
        sizes = {t.shape[0] for t in self._session.get_inputs() if not _optional(t)}
        named = {size for size in sizes if isinstance(size, str)}
        apart = computes_rows_apart(self.run, inputs)
        if apart or (apart is None and len(named) <= 1):
            return
        _log.info("%s: its rows depend on each other, so that requests are not joined", path)
        self.batchable = False
        if sizes != named or len(named) > 1:
            self.signature = replace(self.signature, batched=False)

    def close(self) -> None:
        """Let go of the network's memory; no call may be running."""
        if self._lanes is not None:
            self._lanes.close()


def _connect(path: Path, options: RuntimeOptions, plan: Plan | None) -> Any:
    inputs = plan.signature.inputs if plan is not None and plan.batched else ()

    def choose(name: str) -> tuple[str, dict[str, str]]:
        return provider_options(name, options, profile=inputs, fixed=plan is not None)

    return open_session(path, options, choose)


def _with_graphs(
    path: Path, options: RuntimeOptions, plan: Plan
) -> tuple[Any, Lanes] | tuple[None, None]:
    """A session and lanes that replay CUDA graphs; nothing if they cannot be had.

    ONNX Runtime refuses a network with control flow, or with an operator that runs on the CPU.
    """
    try:
        # A fallback to the CPU here would be one from CUDA graphs, not from the GPU.
        gpu_only = replace(options, require_gpu=True)
        lanes = [GraphLane(_connect(path, gpu_only, plan), plan) for _ in range(_GPU_LANES)]
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        _log.warning("%s runs without CUDA graphs: %s", path, error)
        return None, None
    return lanes[0].session, Lanes(lanes, plan)


def _copying(path: Path, session: Any, plan: Plan) -> Lanes:
    try:
        return Lanes([HostLane(session, plan) for _ in range(_GPU_LANES)], plan)
    except Exception as error:  # most often, that the memory of the GPU is full
        raise ModelLoadError(
            f"{path}: the GPU cannot run a batch of {plan.buckets[-1]} rows; gpu-batch-rows and "
            f"gpu-memory-limit bound it: {error}"
        ) from error


def _signature(path: Path, session: Any) -> Signature:
    return Signature(
        tuple(_spec(path, tensor) for tensor in session.get_inputs() if not _optional(tensor)),
        tuple(_spec(path, tensor) for tensor in session.get_outputs()),
    )


def _optional(tensor: Any) -> bool:
    """Of an optional type: the network runs without it, and so it is served."""
    return bool(tensor.type.startswith("optional("))


def _spec(path: Path, tensor: Any) -> TensorSpec:
    datatype = _DATATYPES.get(tensor.type)
    if datatype is None:
        raise ModelLoadError(
            f"{path}: {tensor.name!r} is a {tensor.type}, which cannot be served; {_hint(tensor)}"
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in tensor.shape)
    return TensorSpec(tensor.name, datatype, shape)


def _hint(tensor: Any) -> str:
    if tensor.type.startswith("tensor("):
        return "a Cast in the network can make it one of: " + ", ".join(_DATATYPES)
    return (
        "only tensors can; a classifier converted from scikit-learn or LightGBM needs the option "
        "zipmap=False"
    )


def _as_text(name: str, array: Array) -> Array:
    try:
        texts = [value.decode() for value in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise SignatureError(f"input {name!r}: BYTES that are not UTF-8 text") from None
    return np.array(texts, dtype=np.object_).reshape(array.shape)
