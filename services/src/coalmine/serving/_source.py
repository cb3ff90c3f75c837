"""Where a model comes from: a `file:` URI, a directory with a card, or a bare `.onnx` file."""

from __future__ import annotations

from collections import Counter
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
from coalmine.records import RESERVED_COLUMNS
from coalmine.serving._errors import ModelLoadError

__all__ = ["ModelSource", "checked_card", "locate", "made_up_card"]

#: Wider tensors are pixels or embeddings, not features that somebody watches.
_MOST_COLUMNS = 256


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
        return made_up_card(signature, name=name)
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


def made_up_card(signature: Signature, *, name: str) -> ModelCard:
    """A card from the signature alone: records name a column `x`, or `x_0`, `x_1`, ... of a tensor.

    Tensors that are too wide, or of names that records keep or that are there twice, are not
    recorded.
    """
    taken = Counter(
        column for spec in (*signature.inputs, *signature.outputs) for column in _column_names(spec)
    )
    free = {column for column, count in taken.items() if count == 1} - RESERVED_COLUMNS

    def tensor(spec: TensorSpec) -> Tensor:
        names = _column_names(spec)
        columns = [{"name": name} for name in names] if free.issuperset(names) else []
        described = {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
        return Tensor.model_validate({**described, "columns": columns})

    return ModelCard(
        name=name,
        inputs=tuple(tensor(spec) for spec in signature.inputs),
        outputs=tuple(tensor(spec) for spec in signature.outputs),
    )


def _column_names(spec: TensorSpec) -> list[str]:
    if spec.shape in ((-1,), (-1, 1)):
        return [spec.name]
    if len(spec.shape) == 2 and spec.shape[0] == -1 and 1 < spec.shape[1] <= _MOST_COLUMNS:
        return [f"{spec.name}_{number}" for number in range(spec.shape[1])]
    return []
