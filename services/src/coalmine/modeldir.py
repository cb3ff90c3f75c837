"""The model directory: `model.onnx` and `model.yaml`, the unit that is registered and served.

`model.yaml` gives every tensor of the network its name, datatype and shape, and every *column* of a
tensor its meaning, so that records, monitors and the registry all speak of the same features::

    name: ev-battery
    inputs:
      - name: features
        datatype: FP32
        shape: [-1, 2]
        columns:
          - {name: soc, type: numeric, unit: "1"}
          - {name: mode, type: categorical, categories: ["drive", "charge"]}
    outputs:
      - name: label
        datatype: INT64
        shape: [-1]
        columns:
          - {name: label, type: categorical, categories: ["normal", "fault"]}
    training_data: sha256:...
    sha256: 0f3a...          # of model.onnx; what is fetched or loaded must have it
    metrics: {accuracy: 0.97}

A tensor of shape `[-1]` or `[-1, 1]` has one column, `[-1, k]` has k; a tensor of higher rank has
none and is not recorded column by column. The numbers of a categorical column are indices into
`categories`.

Errors: `ModelDirectoryError`, with the file and the key in the message.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = [
    "MODEL_CARD",
    "MODEL_FILE",
    "REFERENCE_FILE",
    "TRANSFORMER_FILE",
    "Column",
    "ModelCard",
    "ModelDirectoryError",
    "Tensor",
    "check_network",
    "load_card",
    "model_digest",
    "write_card",
]

MODEL_FILE = "model.onnx"
MODEL_CARD = "model.yaml"
#: What the model's transformer was fitted with, if it was: of the transformer's own form.
TRANSFORMER_FILE = "transformer.json"
#: Rows the monitors compare with: columns of the record, plus `true_label`, in time order.
REFERENCE_FILE = "reference.parquet"

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip


class ModelDirectoryError(ValueError):
    """A model directory that cannot be used; the message names the file and the key."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Frozen):
    """One named column of a tensor."""

    name: str = Field(min_length=1)
    type: Literal["numeric", "categorical"] = "numeric"
    unit: str | None = None
    categories: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _categories_fit_the_type(self) -> Column:
        if (self.type == "categorical") != bool(self.categories):
            raise ValueError("`categories` belongs to a categorical column, and must not be empty")
        return self


class Tensor(_Frozen):
    """One input or output of the network. The first dimension is the batch, -1."""

    name: str = Field(min_length=1)
    datatype: Datatype
    shape: tuple[int, ...]
    columns: tuple[Column, ...] = ()

    @model_validator(mode="after")
    def _columns_fit_the_shape(self) -> Tensor:
        if self.columns:
            width = 1 if len(self.shape) == 1 else self.shape[1]
            if len(self.shape) > 2 or len(self.columns) != width:
                shape = list(self.shape)
                raise ValueError(f"tensor {self.name!r}: {len(self.columns)} columns for {shape=}")
        return self


class ModelCard(_Frozen):
    """What `model.yaml` says of a model."""

    name: str = Field(min_length=1)
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    training_data: str | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of the network's file, in hexadecimal."""

    metrics: dict[str, float] = Field(default_factory=dict)

    def feature_columns(self) -> tuple[Column, ...]:
        """The columns of all inputs, in order: the features of a record."""
        return tuple(column for tensor in self.inputs for column in tensor.columns)

    def output_columns(self) -> tuple[Column, ...]:
        """The columns of all outputs, in order: the predictions of a record."""
        return tuple(column for tensor in self.outputs for column in tensor.columns)


def load_card(directory: Path) -> ModelCard:
    """Read `model.yaml` of a model directory."""
    path = directory / MODEL_CARD
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelDirectoryError(f"{path}: missing; a model directory needs it") from error
    except OSError as error:
        raise ModelDirectoryError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelDirectoryError(f"{path}: not YAML: {error}") from error
    try:
        return ModelCard.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        said = f"{key}: {first['msg']}" if key else "needs `name`, `inputs` and `outputs`"
        raise ModelDirectoryError(f"{path}: {said}") from error


def check_network(network: Path, card: ModelCard) -> None:
    """ModelDirectoryError if the card says another sha256 of the network than it has."""
    if card.sha256 is None:
        return
    with network.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != card.sha256:
        raise ModelDirectoryError(f"{network}: its sha256 is {found}, {MODEL_CARD} says another")


def write_card(directory: Path, card: ModelCard) -> None:
    """Write `model.yaml`; the same card always gives the same bytes."""
    text = yaml.safe_dump(card.model_dump(mode="json", exclude_none=True), sort_keys=False)
    (directory / MODEL_CARD).write_text(text, encoding="utf-8")


def model_digest(directory: Path) -> str:
    """`sha256:` digest over network, card and transformer: the identity of what is served."""
    digest = hashlib.sha256()
    for name in (MODEL_FILE, MODEL_CARD, TRANSFORMER_FILE):
        if name == TRANSFORMER_FILE and not (directory / name).exists():
            continue
        content = (directory / name).read_bytes()
        digest.update(f"{name}:{len(content)}:".encode())
        digest.update(content)
    return f"sha256:{digest.hexdigest()}"
