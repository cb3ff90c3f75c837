"""What the model of a logged call takes and returns: from its model directory, else learned.

KServe's events name the InferenceService and nothing of the model. A directory of model versions
(`models/3/model.yaml`, as the registry lays them out) has the columns, their types and categories;
without one, the first call of a model says what can be known from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalmine.modeldir import MODEL_CARD, Column, ModelCard, ModelDirectoryError, Tensor, load_card
from coalmine.protocol import DATATYPES
from coalmine.records._cloudevents import Event
from coalmine.records._errors import MalformedEventError
from coalmine.records._schema import record_schema

__all__ = ["Deployed", "Signatures"]

#: Of a Kubernetes object: says what KServe's events do not. See `metadataAnnotations` of a logger.
_VERSION, _ARM = "coalmine/model-version", "coalmine/arm"
_UNKNOWN_VERSION = "unknown"
#: Of a tensor that is learned: what a few bytes of a shape may claim.
_MOST_COLUMNS = 4096
#: Models that are learned: their names may be a client's.
_MOST_LEARNED = 1024


@dataclass(frozen=True, slots=True)
class Deployed:
    """The model version that answered."""

    card: ModelCard
    version: str
    arm: str


class Signatures:
    """Model cards by name and version. New ones are looked for when one is asked for that is not
    known; a version that was read stays as it was, as a version does."""

    def __init__(self, models: Path | None) -> None:
        self._models = models
        self._cards: dict[str, dict[str, ModelCard]] = {}
        self._learned: dict[tuple[str, str], ModelCard] = {}
        self._read_paths: set[Path] = set()
        self._read()

    def of(self, event: Event, request: Any, response: Any) -> Deployed:
        """Who answered a call, whose payloads are given as JSON objects, {} where there is none.

        MalformedEventError if there is no card and none can be learned from it.
        """
        name = event.service or _named(response, request, key="model_name")
        arm = event.annotations.get(_ARM) or "stable"
        said = event.annotations.get(_VERSION) or _named(response, request, key="model_version")
        cards = self._of_name(name, said)
        if said in cards:
            return Deployed(cards[said], said, arm)
        if cards:
            newest = max(cards, key=_by_number)
            version = said or (newest if len(cards) == 1 else _UNKNOWN_VERSION)
            return Deployed(cards[newest], version, arm)
        return Deployed(self._learn(name, said, request, response), said or _UNKNOWN_VERSION, arm)

    def _of_name(self, name: str, version: str) -> dict[str, ModelCard]:
        cards = self._cards.get(name, {})
        if not cards or (version and version not in cards):
            self._read()
            cards = self._cards.get(name, {})
        return cards

    def _read(self) -> None:
        if self._models is None:
            return
        for path in sorted(self._models.glob(f"*/{MODEL_CARD}")):
            if path in self._read_paths:
                continue  # events of a model that has no directory make us look each time
            try:
                card = load_card(path.parent)
            except ModelDirectoryError:
                continue  # half written
            self._read_paths.add(path)
            self._cards.setdefault(card.name, {})[path.parent.name] = card

    def _learn(self, name: str, version: str, request: Any, response: Any) -> ModelCard:
        key = (name, version)
        if key not in self._learned and request and response:
            learned = _shown(name or "unknown", request, response)
            if len(self._learned) >= _MOST_LEARNED:
                del self._learned[next(iter(self._learned))]
            self._learned[key] = learned
        try:
            return self._learned[key]
        except KeyError:
            raise MalformedEventError(
                f"no model directory of {name!r} is known, and no whole call of it was seen yet"
            ) from None


def _named(*payloads: Any, key: str) -> str:
    """What a V2 payload says of its model."""
    found = (payload.get(key) for payload in payloads)
    return next((value for value in found if isinstance(value, str) and value), "")


def _by_number(version: str) -> tuple[int, str]:
    return (int(version), version) if version.isdecimal() else (-1, version)


def _shown(name: str, request: Any, response: Any) -> ModelCard:
    """What a whole call shows of its model; MalformedEventError if that makes no record."""
    try:
        inputs = _tensors(request, ("inputs", "instances"), taken=set())
        taken = {column.name for tensor in inputs for column in tensor.columns}
        outputs = _tensors(response, ("outputs", "predictions"), taken=taken)
        card = ModelCard(name=name, inputs=inputs, outputs=outputs)
        record_schema(card)
    except MalformedEventError:
        raise
    except (TypeError, ValueError, LookupError) as error:  # of a stranger's JSON, all are the same
        raise MalformedEventError(f"nothing can be learned from this call: {error}") from error
    return card


def _tensors(payload: Any, keys: tuple[str, str], *, taken: set[str]) -> tuple[Tensor, ...]:
    """The tensors that a payload shows, with a column for each value of a row."""
    found = next((payload[key] for key in keys if key in payload), None)
    only = keys[0].removesuffix("s")
    if isinstance(found, dict):  # V1 in columns
        rows = [
            dict(zip(found, values, strict=False)) for values in zip(*found.values(), strict=False)
        ]
    elif found and isinstance(found, list) and _is_v2(found[0]):
        return tuple(
            _tensor(item["name"], item["datatype"], _width(item["shape"]), taken) for item in found
        )
    else:
        rows = found if isinstance(found, list) else []
    if not rows:
        raise MalformedEventError("an empty call says nothing of its model")
    first = rows[0] if isinstance(rows[0], dict) else {only: rows[0]}
    return tuple(
        _tensor(name, "BYTES" if _is_text(value) else "FP64", _length(value), taken)
        for name, value in first.items()
    )


def _is_v2(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("name"), str)
        and item.get("datatype") in DATATYPES
        and isinstance(item.get("shape"), list)
    )


def _width(shape: list[Any]) -> int | None:
    if len(shape) <= 1:
        return None
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else 0


def _length(value: Any) -> int | None:
    if not isinstance(value, list):
        return None
    return 0 if any(isinstance(item, list) for item in value) else len(value)


def _is_text(value: Any) -> bool:
    while isinstance(value, list):
        value = value[0] if value else 0.0
    return isinstance(value, str)


def _tensor(name: str, datatype: Any, width: int | None, taken: set[str]) -> Tensor:
    """A tensor [-1] (no width), [-1, width], or one without columns: of a higher rank (0), or wider
    than a table is."""
    if width is not None and not 0 < width <= _MOST_COLUMNS:
        return Tensor(name=name, datatype=datatype, shape=(-1, -1, -1))
    names = [name] if width is None else [f"{name}_{number}" for number in range(width)]
    columns = tuple(Column(name=f"output_{each}" if each in taken else each) for each in names)
    shape = (-1,) if width is None else (-1, width)
    return Tensor(name=name, datatype=datatype, shape=shape, columns=columns)
