"""Execution providers: the order asked, the options given, and no silent way back to the CPU."""

from __future__ import annotations

import logging
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from packaging.requirements import Requirement

from coalmine.protocol import TensorSpec
from coalmine.serving import ModelLoadError, ServeOptions
from coalmine.serving._onnx import OnnxModel, runtime_options
from coalmine.serving._providers import RuntimeOptions, provider_options

GPU = "CUDAExecutionProvider" in ort.get_available_providers()
no_gpu = pytest.mark.skipif(GPU, reason="this ONNX Runtime has CUDA; tests/gpu is for it")
IMAGES = (TensorSpec("image", "FP32", (-1, 3, 224, 224)),)


@pytest.mark.parametrize("names", [("cuda",), ("tensorrt", "cuda")])
@no_gpu
def test_what_cannot_be_had_is_refused_with_its_reason(
    model_dir: Path, names: tuple[str, ...]
) -> None:
    with pytest.raises(ModelLoadError, match=r"add cpu to fall back to it .*onnxruntime-gpu"):
        OnnxModel(model_dir / "model.onnx", RuntimeOptions(providers=names))


@no_gpu
def test_a_fallback_that_was_asked_for_is_logged(
    model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="coalmine.serving"):
        model = OnnxModel(model_dir / "model.onnx", RuntimeOptions(providers=("cuda", "cpu")))
    assert model.providers == ["CPUExecutionProvider"]
    assert (model.runners, model.max_batch_rows) == (1, None)
    (record,) = caplog.records
    assert "cuda cannot be used" in record.getMessage()
    assert "runs on cpu" in record.getMessage()


@no_gpu
def test_a_gpu_that_is_required_and_not_there(model_dir: Path) -> None:
    options = RuntimeOptions(providers=("tensorrt", "cuda", "cpu"), require_gpu=True)
    with pytest.raises(ModelLoadError, match=r"a GPU is required, and none.*tensorrt: .*cuda: "):
        OnnxModel(model_dir / "model.onnx", options)


@no_gpu
def test_cuda_graphs_that_cannot_be_had_are_not_the_end(
    model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = RuntimeOptions(providers=("cuda", "cpu"), cuda_graphs=True)
    model = OnnxModel(model_dir / "model.onnx", options)
    assert model.providers == ["CPUExecutionProvider"]
    assert "runs without CUDA graphs" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"providers": ("abacus",)}, "providers: abacus; allowed: tensorrt, cuda, cpu"),
        ({"providers": ()}, "providers: none"),
        ({"require_gpu": True}, "a GPU is required, but providers names only cpu"),
        ({"gpu_batch_rows": 0}, "gpu-batch-rows: 0"),
        ({"device": -1}, "device: -1"),
        ({"gpu_memory_limit": -5}, "gpu-memory-limit: -5"),
        ({"threads": -2}, "threads: -2"),
    ],
)
def test_options_that_make_no_sense(model_dir: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        OnnxModel(model_dir / "model.onnx", RuntimeOptions(**wrong))


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no network at all")
    for providers in (("cpu",), ("cuda", "cpu")):
        with pytest.raises(ModelLoadError, match=r"broken\.onnx: ONNX Runtime cannot load it"):
            OnnxModel(path, RuntimeOptions(providers=providers))


def test_options_of_cuda() -> None:
    options = RuntimeOptions(device=1, gpu_memory_limit=2**30, cuda_graphs=True)
    assert provider_options("cuda", options, fixed=True) == (
        "CUDAExecutionProvider",
        {
            "device_id": "1",
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "arena_extend_strategy": "kSameAsRequested",
            "gpu_mem_limit": "1073741824",
            "enable_cuda_graph": "1",
        },
    )
    _, free = provider_options("cuda", options, fixed=False)
    assert free["cudnn_conv_algo_search"] == "HEURISTIC"
    assert "enable_cuda_graph" not in free


def test_options_of_tensorrt(tmp_path: Path) -> None:
    options = RuntimeOptions(tensorrt_cache=tmp_path, fp16=True, gpu_batch_rows=16)
    name, settings = provider_options("tensorrt", options, fixed=True, profile=IMAGES)
    assert name == "TensorrtExecutionProvider"
    assert settings == {
        "device_id": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(tmp_path),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(tmp_path),
        "trt_fp16_enable": "1",
        "trt_profile_min_shapes": "image:1x3x224x224",
        "trt_profile_opt_shapes": "image:16x3x224x224",
        "trt_profile_max_shapes": "image:16x3x224x224",
    }


def test_what_a_server_is_told_reaches_the_runtime(tmp_path: Path) -> None:
    options = ServeOptions(
        model="m",
        providers=("cuda", "cpu"),
        require_gpu=True,
        threads=3,
        device=2,
        gpu_memory_limit=5,
        gpu_batch_rows=64,
        cuda_graphs=True,
        tensorrt_cache=tmp_path,
        fp16=True,
    )
    again = ServeOptions.from_json(options.to_json())
    assert again == options
    assert runtime_options(again) == RuntimeOptions(
        providers=("cuda", "cpu"),
        require_gpu=True,
        threads=3,
        device=2,
        gpu_memory_limit=5,
        gpu_batch_rows=64,
        cuda_graphs=True,
        tensorrt_cache=tmp_path,
        fp16=True,
    )
    assert runtime_options(ServeOptions(model="m", threads=0)).threads >= 1


def test_the_extras_never_bring_both_kinds_of_onnx_runtime() -> None:
    """They hold the same module; what is installed last would win, or half of it."""
    kinds = {}
    for extra in ("serving", "gpu"):
        wanted, names = [extra], set()
        while wanted:
            name = wanted.pop()
            for line in requires("coalmine") or []:
                requirement = Requirement(line)
                if requirement.marker and requirement.marker.evaluate({"extra": name}):
                    if not requirement.marker.evaluate({"extra": ""}):
                        names.add(requirement.name)
                        wanted += requirement.extras if requirement.name == "coalmine" else ()
        kinds[extra] = names & {"onnxruntime", "onnxruntime-gpu"}
        assert "kserve" in names
    assert kinds == {"serving": {"onnxruntime"}, "gpu": {"onnxruntime-gpu"}}
