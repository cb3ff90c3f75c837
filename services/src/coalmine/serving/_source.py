"""The files of a model on this machine: a directory, with a card or without, or an `.onnx` file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from coalmine.modeldir import (
    MODEL_CARD,
    MODEL_FILE,
    ModelCard,
    ModelDirectoryError,
    Tensor,
    check_network,
    load_card,
)
from coalmine.protocol import Signature, TensorSpec
from coalmine.records import is_reserved
from coalmine.serving._errors import ModelLoadError
from coalmine.serving._pyfunc import MLMODEL, onnx_flavour

__all__ = ["ModelSource", "checked_card", "locate", "made_up_card"]

#: Wider tensors are pixels or embeddings, not features that somebody watches.
_MOST_COLUMNS = 256


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The files of a model."""

    network: Path | None
    """The ONNX file; None for an MLflow model of another kind."""

    directory: Path
    card: ModelCard | None


def locate(path: Path) -> ModelSource:
    """Find the files of a model; ModelLoadError says what is missing."""
    if path.is_file():
        return ModelSource(path, path.parent, None)
    if not path.is_dir():
        raise ModelLoadError(f"{path}: no such model directory or .onnx file")
    if (path / MODEL_FILE).is_file():
        return ModelSource(path / MODEL_FILE, path, _card(path, path / MODEL_FILE))
    if (path / MLMODEL).is_file():
        return ModelSource(onnx_flavour(path), path, None)
    networks = sorted(path.glob("*.onnx"))
    if len(networks) == 1:
        return ModelSource(networks[0], path, _card(path, networks[0]))
    found = f"has {len(networks)} .onnx files" if networks else "has none of them"
    raise ModelLoadError(f"{path}: a model directory needs {MODEL_FILE} or {MLMODEL}; it {found}")


def _card(directory: Path, network: Path) -> ModelCard | None:
    if not (directory / MODEL_CARD).exists():
        return None
    try:
        card = load_card(directory)
        check_network(network, card)
        return card
    except ModelDirectoryError as error:
        raise ModelLoadError(str(error)) from error


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
            card = source.directory / MODEL_CARD
            raise ModelLoadError(f"{card}: {kind}: says {said}, the network has {found}")
        shapes = {spec.name: spec.shape for spec in specs}
        for tensor in tensors:
            if not _agree(tensor.shape, shapes[tensor.name]):
                raise ModelLoadError(
                    f"{source.directory / MODEL_CARD}: {kind}: says shape {list(tensor.shape)} of "
                    f"{tensor.name!r}, the network has {list(shapes[tensor.name])}"
                )
    return source.card


def _agree(said: tuple[int, ...], found: tuple[int, ...]) -> bool:
    """Whether two shapes may be of one tensor. One that a network leaves open looks like `()`."""
    if not found:
        return True
    return len(said) == len(found) and all(
        a == b or -1 in (a, b) for a, b in zip(said, found, strict=True)
    )


def made_up_card(signature: Signature, *, name: str) -> ModelCard:
    """A card from the signature alone: records name a column `x`, or `x_0`, `x_1`, ... of a tensor.

    Tensors that are too wide, without rows in common, or of names that records keep or that are
    there twice, are not recorded.
    """
    taken = Counter(
        column for spec in (*signature.inputs, *signature.outputs) for column in _column_names(spec)
    )
    free = {column for column, count in taken.items() if count == 1 and not is_reserved(column)}

    def tensor(spec: TensorSpec) -> Tensor:
        names = _column_names(spec)
        recorded = signature.batched and free.issuperset(names)
        columns = [{"name": name} for name in names] if recorded else []
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
