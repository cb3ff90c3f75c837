"""Execution providers: what ONNX Runtime may run a network on, in the order asked.

ONNX Runtime falls back to the CPU without a word when a GPU cannot be used. Here the order is tried
provider by provider, and what could not be used is logged with its reason, or refused if a GPU is
required.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from coalmine.protocol import TensorSpec
from coalmine.serving._errors import ModelLoadError

__all__ = [
    "PROVIDERS",
    "RuntimeOptions",
    "check_providers",
    "device_error",
    "provider_options",
    "why_not",
]

#: ONNX Runtime's name of each provider.
PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}

_Provider = tuple[str, dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """How ONNX Runtime runs a network."""

    providers: tuple[str, ...] = ("cpu",)
    """In the order to try: tensorrt, cuda, cpu."""

    require_gpu: bool = False
    """ModelLoadError instead of a run on the CPU."""

    threads: int = 1
    """For one batch on the CPU; 0: as many as ONNX Runtime finds cores."""

    device: int = 0
    """Number of the GPU, as CUDA counts them."""

    gpu_memory_limit: int = 0
    """Bytes of GPU memory for the network's arena; 0: all there is."""

    gpu_batch_rows: int = 32
    """Largest batch on a GPU; a request of more rows is run in pieces."""

    cuda_graphs: bool = False
    """Record each batch size once and replay it, which saves the launch of every kernel."""

    tensorrt_cache: Path | None = None
    """Directory where TensorRT's engines are kept; None: built anew at each start."""

    fp16: bool = False
    """Let TensorRT compute in half precision."""


def check_providers(options: RuntimeOptions) -> None:
    """ModelLoadError for a provider that does not exist, and for options that contradict."""
    unknown = [name for name in options.providers if name not in PROVIDERS]
    if unknown or not options.providers:
        allowed = ", ".join(PROVIDERS)
        raise ModelLoadError(f"providers: {', '.join(unknown) or 'none'}; allowed: {allowed}")
    if options.require_gpu and set(options.providers) == {"cpu"}:
        raise ModelLoadError("a GPU is required, but providers names only cpu; say cuda,cpu")
    for name, least in (
        ("gpu_batch_rows", 1),
        ("device", 0),
        ("gpu_memory_limit", 0),
        ("threads", 0),
    ):
        value = getattr(options, name)
        if value < least:
            flag = name.replace("_", "-")
            raise ModelLoadError(f"{flag}: {value}; a number from {least} on")


def provider_options(
    name: str, options: RuntimeOptions, *, fixed: bool, profile: tuple[TensorSpec, ...] = ()
) -> _Provider:
    """One provider with its options, as ONNX Runtime takes them.

    `fixed` says that batches come in a few sizes only: then cuDNN's exhaustive search for the
    fastest convolution is paid once for each, before the server is ready. `profile` are the inputs
    whose first dimension, alone, varies.
    """
    if name == "cpu":
        return PROVIDERS[name], {}
    settings = {"device_id": str(options.device)}
    if name == "cuda":
        # The copies stay in the stream of the computation (do_copy_in_default_stream's default):
        # ONNX Runtime documents data races with a stream of their own. Two batches in flight
        # overlap one's copies with the other's computation instead.
        settings["cudnn_conv_algo_search"] = "EXHAUSTIVE" if fixed else "HEURISTIC"
        # Powers of two, the default, may take twice the memory that the largest batch needs.
        settings["arena_extend_strategy"] = "kSameAsRequested"
        if options.gpu_memory_limit:
            settings["gpu_mem_limit"] = str(options.gpu_memory_limit)
        if options.cuda_graphs and fixed:
            settings["enable_cuda_graph"] = "1"
        return PROVIDERS[name], settings
    if options.tensorrt_cache is not None:
        settings["trt_engine_cache_enable"] = "1"
        settings["trt_engine_cache_path"] = str(options.tensorrt_cache)
        settings["trt_timing_cache_enable"] = "1"
        settings["trt_timing_cache_path"] = str(options.tensorrt_cache)
    if options.fp16:
        settings["trt_fp16_enable"] = "1"
    if options.gpu_memory_limit:
        settings["trt_max_workspace_size"] = str(options.gpu_memory_limit)
    if profile:
        # Without a profile TensorRT builds a new engine, in minutes, for each batch size it meets.
        settings["trt_profile_min_shapes"] = _profile(profile, 1)
        settings["trt_profile_opt_shapes"] = _profile(profile, options.gpu_batch_rows)
        settings["trt_profile_max_shapes"] = _profile(profile, options.gpu_batch_rows)
    return PROVIDERS[name], settings


def _profile(inputs: tuple[TensorSpec, ...], rows: int) -> str:
    return ",".join(
        f"{spec.name}:{'x'.join(str(size) for size in (rows, *spec.shape[1:]))}" for spec in inputs
    )


def why_not(name: str) -> str:
    """Why a provider cannot be used here: what is not installed, or what the driver says."""
    if PROVIDERS[name] not in ort.get_available_providers():
        return (
            f"the installed ONNX Runtime has no {name}; it needs onnxruntime-gpu in place of "
            "onnxruntime (docs/serving.md, On a GPU)"
        )
    if (wrong := device_error()) is not None:
        return wrong
    library = Path(ort.__file__).parent / f"capi/libonnxruntime_providers_{name}.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        # It finds its host only when ONNX Runtime loads it: that symbol is missing last.
        if "Provider_GetHost" not in str(error):
            return f"a library is missing: {error}"
    return "ONNX Runtime's log, above, says why"


def device_error() -> str | None:
    """What the CUDA driver says is wrong with the devices of this machine; None: nothing is."""
    try:
        driver: Any = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed (libcuda.so.1 is not there)"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status == 0:
        return None if count.value else "the NVIDIA driver sees no device"
    text = ctypes.c_char_p()
    driver.cuGetErrorString(status, ctypes.byref(text))
    return f"the NVIDIA driver says: {(text.value or b'unknown error').decode()} ({status})"
