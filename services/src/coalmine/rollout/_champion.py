"""The registry, of which only the newest controller moves the champion.

A registry has no compare-and-set: a controller that was stopped between asking for its lease and
moving an alias would go on with that move when it wakes, after others have promoted another
version. So what is to be champion is first said in a file that only the newest token replaces
(`coalmine.fencing`), and the registry is told what the file says until both are the same: a
controller that wakes with an old move finds the newer word, and repairs what it did. What is left
is the moment between its move and its repair, if it is killed in just that.
"""

from __future__ import annotations

from pathlib import Path

from coalmine.fencing import Fence
from coalmine.rollout._protocols import ModelRegistry

__all__ = ["FencedRegistry"]


class FencedRegistry:
    """A `ModelRegistry` for a controller with a token; `file` is kept beside its database."""

    def __init__(self, registry: ModelRegistry, file: Path) -> None:
        self._registry = registry
        self._file = file
        self._fence = Fence(file.with_suffix(".fence"))
        self._token = 0

    def claim(self, token: int) -> None:
        """Refuse the writes of smaller tokens from here on; `FencedOff` if a larger one claimed."""
        self._fence.claim(token)
        self._token = token

    def materialise(self, version: str) -> Path:
        """As the registry does."""
        return self._registry.materialise(version)

    def champion(self) -> str | None:
        """As the registry says."""
        return self._registry.champion()

    def promote(self, version: str) -> None:
        """Make a version the champion; `FencedOff` if another controller has taken over."""
        self._fence.replace(self._file, version.encode(), token=self._token)
        while True:
            wanted = self._file.read_text()
            self._registry.promote(wanted)
            if self._file.read_text() == wanted:
                return

    def reject(self, version: str, reason: str) -> None:
        """Note why a version was given up; `FencedOff` if another controller has taken over."""
        self._fence.check(self._token)
        self._registry.reject(version, reason)
