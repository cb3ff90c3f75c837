"""Model versions as files, since a controller of milliseconds cannot wait for a registry."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from coalmine.modeldir import ModelCard, Tensor, write_card

__all__ = ["SICK", "Registry"]

#: Versions of this prefix fail.
SICK = "sick"


@dataclass(frozen=True, slots=True)
class Registry:
    """What a rollout asks of a registry."""

    root: Path

    def materialise(self, version: str) -> Path:
        """The version's directory."""
        directory = self.root / "versions" / version
        if not directory.is_dir():
            raise LookupError(f"no version {version}")
        return directory

    def add(self, version: str) -> None:
        """Register a version."""
        directory = self.root / "versions" / version
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "model.onnx").write_text(version)
        tensor = Tensor(name="x", datatype="FP32", shape=(-1, 1))
        write_card(directory, ModelCard(name="m", inputs=(tensor,), outputs=(tensor,)))

    def champion(self) -> str | None:
        """The version that should serve."""
        file = self.root / "champion"
        return file.read_text() if file.exists() else None

    def promote(self, version: str) -> None:
        """Make a version the champion."""
        temporary = self.root / f"champion.{os.getpid()}"
        temporary.write_text(version)
        temporary.replace(self.root / "champion")

    def reject(self, version: str, reason: str) -> None:
        """Note that a version was given up."""
        (self.root / "versions" / version / "rejected").write_text(reason)
