"""A multilayer perceptron in PyTorch, for tables with missing values.

Each feature goes in twice: scaled, with zero for a missing value, and as a flag that it is missing.
Scaling and flags are part of the exported network, so the server sends raw features to it as to any
other.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coalmine.retraining.learning._family import Lesson, Material, Report, Tried
from coalmine.retraining.learning._imports import nothing_hidden
from coalmine.retraining.learning._onnx import Layer, export_perceptron
from coalmine.retraining.learning._space import Dimension, Params, Space

MAX_EPOCHS = 30
_PATIENCE = 5
_BATCH = 256
#: Scaled features beyond this say no more than this: one broken sensor must not swamp the rest.
CLIP = 8.0
#: Share of values that are blanked in each epoch, so that the flags are learned.
_BLANKED = 0.02

SPACE: Space = {
    "mlp_learning_rate": Dimension(3e-4, 1e-2, default=3e-3, log=True),
    "width": Dimension(16, 128, default=64, whole=True, log=True),
    "depth": Dimension(1, 3, default=2, whole=True),
    "dropout": Dimension(0.0, 0.3, default=0.05),
    "weight_decay": Dimension(1e-6, 1e-2, default=1e-4, log=True),
}


@dataclass(frozen=True, slots=True)
class TrainedPerceptron:
    """The layers, as arrays, with the scaling in front of them."""

    network: Any
    centre: np.ndarray
    scale: np.ndarray

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Class probabilities [rows, classes]."""
        import torch

        with torch.no_grad():
            given = torch.from_numpy(prepare(matrix, centre=self.centre, scale=self.scale))
            return np.asarray(torch.softmax(self.network(given), dim=1).numpy())

    def layers(self) -> list[Layer]:
        """Weights [in, out] and biases [out] of the linear layers."""
        return [
            Layer(layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy().copy())
            for layer in self.network
            if hasattr(layer, "weight")
        ]

    def export(self, path: Path) -> None:
        """Write it as ONNX."""
        export_perceptron(self.layers(), centre=self.centre, scale=self.scale, clip=CLIP, path=path)

    def save(self, directory: Path) -> None:
        """Write `mlp.npz`: the scaling, and weights and biases by layer."""
        arrays: dict[str, Any] = {"centre": self.centre, "scale": self.scale}
        for number, layer in enumerate(self.layers()):
            arrays |= {f"weight_{number}": layer.weight, f"bias_{number}": layer.bias}
        np.savez(directory / "mlp.npz", **arrays)


class Perceptron:
    """The perceptron over one table; on a GPU where PyTorch sees one."""

    space = SPACE
    #: Sums of float32 in another order.
    tolerance = 1e-4

    def __init__(self, material: Material) -> None:
        with nothing_hidden():
            import torch
            import torch._dynamo  # an optimizer would import it later

        torch.set_num_threads(1)  # the same sums everywhere; see `_boosting.THREADS`
        self._torch = torch
        self._material = material
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def trial(self, lesson: Lesson, tune: np.ndarray, *, params: Params, report: Report) -> Tried:
        """Learn until the loss on `tune` has not fallen for some epochs."""
        centre, scale = self._scaling(lesson)
        valid = self._tensor(prepare(self._material.matrix[tune], centre=centre, scale=scale))
        truth = self._tensor(self._material.label[tune])
        best, course = Tried(float("inf"), 1), {}
        for epoch, network in enumerate(self._epochs(lesson, params, MAX_EPOCHS), start=1):
            network.eval()
            with self._torch.no_grad():
                said = network(valid)
                loss = float(self._torch.nn.functional.cross_entropy(said, truth))
            course[epoch] = loss
            if loss < best.loss:
                best = Tried(loss, epoch)
            if epoch - best.rounds >= _PATIENCE:
                break
            report(epoch, loss)
        return Tried(best.loss, best.rounds, course)

    def fit(self, lesson: Lesson, *, params: Params, rounds: int) -> TrainedPerceptron:
        """Learn for a fixed number of epochs."""
        centre, scale = self._scaling(lesson)
        *_, network = self._epochs(lesson, params, rounds)
        plain = copy.deepcopy(network).to("cpu").eval()
        return TrainedPerceptron(plain, centre, scale)

    def _epochs(self, lesson: Lesson, params: Params, epochs: int) -> Any:
        """The network after each epoch."""
        torch = self._torch
        generator = torch.Generator().manual_seed(self._material.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._material.seed)
            network = self._network(params).to(self._device)
        centre, scale = self._scaling(lesson)
        given = self._material.matrix[lesson.rows]
        inputs = torch.from_numpy(prepare(given, centre=centre, scale=scale))
        truth = torch.from_numpy(self._material.label[lesson.rows])
        weight = torch.from_numpy((lesson.weight / lesson.weight.mean()).astype(np.float32))
        optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=params["mlp_learning_rate"],
            weight_decay=params["weight_decay"],
        )
        half = inputs.shape[1] // 2
        for epoch in range(epochs):
            network.train()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._material.seed + epoch)  # of dropout
                order = torch.randperm(len(inputs), generator=generator)
                for batch in order.split(_BATCH):
                    some = inputs[batch]
                    gone = torch.rand(len(batch), half, generator=generator) < _BLANKED
                    some[:, :half].masked_fill_(gone, 0.0)
                    some[:, half:].masked_fill_(gone, 1.0)
                    said = network(some.to(self._device))
                    each = torch.nn.functional.cross_entropy(
                        said, truth[batch].to(self._device), reduction="none"
                    )
                    loss = (each * weight[batch].to(self._device)).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            yield network

    def _network(self, params: Params) -> Any:
        nn = self._torch.nn
        width, layers = 2 * self._material.matrix.shape[1], []
        for _ in range(int(params["depth"])):
            layers += [nn.Linear(width, int(params["width"])), nn.ReLU()]
            layers += [nn.Dropout(params["dropout"])]
            width = int(params["width"])
        return nn.Sequential(*layers, nn.Linear(width, self._material.classes))

    def _scaling(self, lesson: Lesson) -> tuple[np.ndarray, np.ndarray]:
        """Median and spread of each feature, float32 [features]; of the rows that teach."""
        given = self._material.matrix[lesson.rows]
        ok = np.where(np.isfinite(given), given, np.nan).astype(np.float64)
        quartiles = np.zeros((3, given.shape[1]))
        known = ~np.isnan(ok).all(axis=0)
        quartiles[:, known] = np.nanquantile(ok[:, known], [0.25, 0.5, 0.75], axis=0)
        spread = (quartiles[2] - quartiles[0]) / 1.35  # of a normal distribution: 1 sigma
        spread[spread <= 0] = 1.0
        return quartiles[1].astype(np.float32), spread.astype(np.float32)

    def _tensor(self, array: np.ndarray) -> Any:
        return self._torch.from_numpy(array).to(self._device)


def prepare(matrix: np.ndarray, *, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Scaled features and flags of missing ones, float32 [rows, 2 * features]."""
    missing = np.isnan(matrix)
    scaled = np.clip((matrix - centre) / scale, -CLIP, CLIP)
    scaled = np.where(missing, np.float32(0), scaled)
    return np.concatenate([scaled, missing.astype(np.float32)], axis=1).astype(np.float32)
