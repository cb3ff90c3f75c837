"""What a report is made of.

Errors::

    ReportError    there is nothing to report on; the message says what is missing
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Facts", "ReportError", "Shape"]


class ReportError(Exception):
    """There is nothing to report on; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A column in the reference and in the records of the range: shares of the same bins."""

    name: str
    bins: tuple[str, ...]
    reference: tuple[float, ...]
    present: tuple[float, ...]
    missing_reference: float
    missing_present: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that the page shows. Times are seconds since the epoch, UTC."""

    model: str
    version: str | None
    since: float | None
    until: float | None
    made_at: float
    drift: Sequence[Mapping[str, Any]]
    """Judged windows, oldest first, as `GET /v1/drift` gives them."""

    quality: Sequence[Mapping[str, Any]]
    performance: Mapping[str, Any]
    """As `GET /v1/performance` gives it."""

    whole: Sequence[Mapping[str, Any]]
    """The whole range as one window of `performance`, of each arm."""

    incidents: Sequence[Mapping[str, Any]]
    versions: Mapping[str, tuple[int, float, float]]
    """Rows in the log of the range, first and last time, by version."""

    shapes: Mapping[str, Shape]
    rows: int
    """Records of the version that the shapes are of."""

    notes: Sequence[str] = ()
    """What could not be told, and why."""
