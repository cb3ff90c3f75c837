"""What the versions of a model take as features, by their cards."""

from __future__ import annotations

from pathlib import Path

from coalmine.modeldir import ModelDirectoryError, load_card


class ModelFeatures:
    """Reads the cards of the versions that are on this machine, each once."""

    def __init__(self, models: Path) -> None:
        self._models = models
        self._known: dict[str, frozenset[str]] = {}

    def __call__(self, version: str) -> frozenset[str] | None:
        """Names of a version's features; None where it is not known what it takes."""
        if version and version not in self._known:
            try:
                card = load_card(self._models / version)
            except (ModelDirectoryError, OSError):
                return None
            columns = (column.name for tensor in card.inputs for column in tensor.columns or ())
            self._known[version] = frozenset(columns)
        return self._known.get(version) or None
