"""A network in the shape of ResNet-50, built from a seed.

The layers of He et al., "Deep Residual Learning for Image Recognition" (2015), table 1, with the
stride in the 3x3 convolution, as today's ResNet-50 have it; batch normalisation is folded into the
convolutions, as every export for inference does. 25.5 million weights, 8.2 GFLOPs a picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from coalmine.modeldir import MODEL_FILE, ModelCard, Tensor, write_card

__all__ = ["CLASSES", "SIDE", "write_network"]

CLASSES = 1000
SIDE = 224
_OPSET = 17
_IR_VERSION = 9  # read by every ONNX Runtime that we allow
_SEED = 50
#: (blocks, width) of each stage; a block's output is four times as wide.
_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
_EXPANSION = 4
#: Share of a block's own result in its sum: with 1, activations double at each of the 16 blocks.
_RESIDUAL = 0.3


def write_network(directory: Path, *, seed: int = _SEED) -> Path:
    """Write `model.onnx` (100 MB) and its card; the network's path.

    Input `image`, FP32 [N, 3, 224, 224], normalised; output `logits`, FP32 [N, 1000]. The same
    seed always gives the same bytes. Needs `onnx` (extra `retraining`).
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / MODEL_FILE
    path.write_bytes(_Builder(seed).build().SerializeToString())
    write_card(
        directory,
        ModelCard(
            name="image",
            inputs=(Tensor(name="image", datatype="FP32", shape=(-1, 3, SIDE, SIDE)),),
            outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, CLASSES)),),
        ),
    )
    return path


class _Builder:
    """Adds layers one after the other; each method takes and gives names of tensors."""

    def __init__(self, seed: int) -> None:
        from onnx import helper, numpy_helper  # an extra, and half a second

        self._helper = helper
        self._to_tensor = numpy_helper.from_array
        self._random = np.random.default_rng(seed)
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def build(self) -> Any:
        """The whole network, as an ONNX model."""
        x = self._relu(self._conv("image", 3, 64, kernel=7, stride=2))
        x = self._add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        channels = 64
        for stage, (blocks, width) in enumerate(_STAGES):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                x = self._bottleneck(x, channels, width, stride=stride)
                channels = width * _EXPANSION
        x = self._add("Flatten", [self._add("GlobalAveragePool", [x])])
        self._dense(x, channels, CLASSES, output="logits")
        helper, kind = self._helper, self._helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
        graph = helper.make_graph(
            self._nodes,
            "image",
            [helper.make_tensor_value_info("image", kind, ["n", 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("logits", kind, ["n", CLASSES])],
            self._weights,
        )
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="coalmine")
        model.ir_version = _IR_VERSION
        return model

    def _bottleneck(self, x: str, channels: int, width: int, *, stride: int) -> str:
        out = width * _EXPANSION
        y = self._relu(self._conv(x, channels, width))
        y = self._relu(self._conv(y, width, width, kernel=3, stride=stride))
        y = self._conv(y, width, out, gain=_RESIDUAL)
        if stride > 1 or channels != out:
            x = self._conv(x, channels, out, stride=stride, gain=0.5**0.5)
        return self._relu(self._add("Add", [x, y]))

    def _conv(
        self,
        x: str,
        channels: int,
        out: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        gain: float = 1.0,
    ) -> str:
        """He's initialisation, which keeps the size of activations through ReLUs."""
        scale = gain * (2 / (channels * kernel**2)) ** 0.5
        weight = self._draw((out, channels, kernel, kernel), scale)
        bias = self._draw((out,), 0.05)
        return self._add(
            "Conv",
            [x, weight, bias],
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
        )

    def _dense(self, x: str, channels: int, out: int, *, output: str) -> str:
        weight = self._draw((out, channels), (2 / channels) ** 0.5)
        bias = self._draw((out,), 0.05)
        return self._add("Gemm", [x, weight, bias], output=output, transB=1)

    def _relu(self, x: str) -> str:
        return self._add("Relu", [x])

    def _draw(self, shape: tuple[int, ...], scale: float) -> str:
        name = f"w{len(self._weights)}"
        values = self._random.standard_normal(shape, np.float32) * np.float32(scale)
        self._weights.append(self._to_tensor(values, name))
        return name

    def _add(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        name = output or f"t{len(self._nodes)}"
        self._nodes.append(self._helper.make_node(kind, inputs, [name], **attributes))
        return name
