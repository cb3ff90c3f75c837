"""What is known of the model versions that are deployed: their cards and references."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from coalmine.clock import Clock
from coalmine.modeldir import REFERENCE_FILE, ModelCard, ModelDirectoryError, load_card

__all__ = ["Catalog", "Deployed"]

#: Seconds that a version's files may come after its first record. Records wait that long; then they
#: pass unjudged, since a monitor that waits for ever for a deleted directory watches nothing.
PATIENCE = 30.0


@dataclass(frozen=True)
class Deployed:
    """One version; None for what did not come in time."""

    version: str
    card: ModelCard | None
    reference: pa.Table | None


class Catalog:
    """The directory `models/`, with a subdirectory per version that appears as it is deployed."""

    def __init__(self, models: Path, *, clock: Clock, patience: float = PATIENCE) -> None:
        self._models = models
        self._clock = clock
        self._patience = patience
        self._asked: dict[str, float] = {}

    def find(self, version: str, *, with_reference: bool) -> Deployed | None:
        """The version, or None while there is still hope for the rest of its files."""
        now = self._clock.monotonic()
        waited = now - self._asked.setdefault(version, now)
        directory = self._models / version
        card = _card(directory)
        reference = _reference(directory) if with_reference and card is not None else None
        complete = card is not None and (reference is not None or not with_reference)
        if not complete and waited < self._patience:
            return None
        del self._asked[version]
        return Deployed(version, card, reference)

    def look(self, version: str) -> Deployed:
        """The version as it is this moment, without waiting for what is missing."""
        directory = self._models / version
        card = _card(directory)
        return Deployed(version, card, None if card is None else _reference(directory))


def _card(directory: Path) -> ModelCard | None:
    try:
        return load_card(directory)
    except ModelDirectoryError:
        return None  # not there, or half written


def _reference(directory: Path) -> pa.Table | None:
    path = directory / REFERENCE_FILE
    try:
        return pq.read_table(path)
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
