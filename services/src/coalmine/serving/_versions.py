"""What a version is called when its source has no name for it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Ledger", "VersionLedger"]


class Ledger(Protocol):
    """Who names versions: this process, or the supervisor of several."""

    def version(self, model: str, *, declared: str | None, digest: str | None) -> str:
        """The version of this content."""
        ...


class VersionLedger:
    """Remembers which content had which version, so that the same content keeps its name.

    >>> ledger = VersionLedger()
    >>> [ledger.version("m", declared=None, digest=digest) for digest in ("a", "b", "a")]
    ['1', '2', '1']
    """

    def __init__(self) -> None:
        self._known: dict[str, dict[str, str]] = {}

    def version(self, model: str, *, declared: str | None, digest: str | None) -> str:
        """The version of this content; content without a digest is new each time."""
        known = self._known.setdefault(model, {})
        if declared is None:
            declared = known.get(digest or "")
        if declared is None:
            numbers = [int(version) for version in known.values() if version.isdecimal()]
            declared = str(max(numbers, default=0) + 1)
        known[digest or f"load {len(known)}"] = declared
        return declared
