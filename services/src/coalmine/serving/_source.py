"""Where a model comes from: a `file:` URI, a directory with a card, or a bare `.onnx` file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from coalmine.modeldir import (
    MODEL_CARD,
    MODEL_FILE,
    ModelCard,
    ModelDirectoryError,
    Tensor,
    load_card,
)
from coalmine.protocol import Signature, TensorSpec
from coalmine.serving._errors import ModelLoadError

__all__ = ["ModelSource", "checked_card", "locate"]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A network's file, and its card if it has one."""

    network: Path
    card: ModelCard | None


def locate(model: str) -> ModelSource:
    """Find the files of a model; ModelLoadError says what is missing."""
    path = _local_path(model)
    if path.is_dir():
        network = path / MODEL_FILE
        if not network.is_file():
            raise ModelLoadError(f"{network}: missing; a model directory needs it")
        if not (path / MODEL_CARD).exists():
            return ModelSource(network, None)
        try:
            return ModelSource(network, load_card(path))
        except ModelDirectoryError as error:
            raise ModelLoadError(str(error)) from error
    if path.is_file():
        return ModelSource(path, None)
    raise ModelLoadError(f"{model}: no such model directory or .onnx file")


def _local_path(model: str) -> Path:
    parts = urlsplit(model)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if parts.scheme and "/" in model[len(parts.scheme) :]:
        raise ModelLoadError(
            f"{model}: a model server reads a directory or file; `coalmine up` fetches what is "
            "elsewhere first"
        )
    return Path(model)


def checked_card(source: ModelSource, signature: Signature, *, name: str) -> ModelCard:
    """The model's card, agreeing with the network; made up from the network if there is none."""
    if source.card is None:
        return ModelCard(
            name=name,
            inputs=tuple(_tensor(spec) for spec in signature.inputs),
            outputs=tuple(_tensor(spec) for spec in signature.outputs),
        )
    for kind, tensors, specs in (
        ("inputs", source.card.inputs, signature.inputs),
        ("outputs", source.card.outputs, signature.outputs),
    ):
        said = {tensor.name: tensor.datatype for tensor in tensors}
        found = {spec.name: spec.datatype for spec in specs}
        if said != found:
            card = source.network.parent / MODEL_CARD
            raise ModelLoadError(f"{card}: {kind}: says {said}, the network has {found}")
    return source.card


def _tensor(spec: TensorSpec) -> Tensor:
    return Tensor.model_validate(
        {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
    )
