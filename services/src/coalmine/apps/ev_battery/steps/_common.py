"""What several steps share: names of files, the champion, small helpers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coalmine.apps.ev_battery._world import CLASSES
from coalmine.modeldir import MODEL_CARD, Column, load_card
from coalmine.retraining import MlflowRegistry
from coalmine_transformers.battery import FEATURES

FEATURE_NAMES = tuple(feature.name for feature in FEATURES)
COLUMNS = tuple(Column(name=feature.name, unit=feature.unit) for feature in FEATURES)

HISTORY, RECENT, ROWS, FACTS = "history.parquet", "recent.parquet", "rows.parquet", "facts.json"
SOURCE = "source.json"
TRAINED, CROSS_FITTED, NATIVE = "trained.json", "cross_fitted.npz", "native.npz"
EVALUATION, PARITY, SEGMENTS = "evaluation.json", "parity.json", "segments.json"
ANSWERS = "answers.npz"


@dataclass(frozen=True, slots=True)
class Champion:
    """What serves now, and where to find it; `version` is empty before the first promotion."""

    version: str
    models: str
    tracking_uri: str
    artifacts: str
    name: str

    def registry(self) -> MlflowRegistry:
        """The registry, which nothing asks before it must: importing MLflow takes seconds."""
        return MlflowRegistry(
            tracking_uri=self.tracking_uri,
            artifacts=Path(self.artifacts),
            models=Path(self.models),
            name=self.name,
        )

    def directory(self) -> Path | None:
        """The champion's model directory; None before the first promotion."""
        if not self.version:
            return None
        directory = Path(self.models) / self.version
        if (directory / MODEL_CARD).exists():  # the rollout put it there, verified
            return directory
        return self.registry().materialise(self.version)


def write_json(path: Path, content: Any) -> None:
    """Write what a later step, or a person, reads."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def as_classes(labels: np.ndarray, directory: Path) -> np.ndarray:
    """A model's label indices as indices into CLASSES, -1 for what is none of them."""
    names = next(c.categories for c in load_card(directory).output_columns() if c.categories)
    place = {name: index for index, name in enumerate(CLASSES)}
    found: np.ndarray = np.asarray([place.get(name, -1) for name in names])[labels]
    return found
