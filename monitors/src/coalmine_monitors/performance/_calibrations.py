"""The calibrations of the versions that are deployed, made once each."""

from __future__ import annotations

from coalmine_monitors._catalog import Catalog
from coalmine_monitors.performance._estimate import Calibration

__all__ = ["Calibrations"]

#: Versions remembered: those that may still be shown, or get labels.
_KEPT = 16


class Calibrations:
    """By version; asked by the monitor's thread and by those that answer requests."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[str, Calibration | None] = {}

    def of(self, version: str) -> Calibration | None:
        """The calibration of a version; None if its model says no chances, or has no reference."""
        if version not in self._known:
            deployed = self._catalog.look(version)
            if deployed.card is None or deployed.reference is None:
                return None  # not there, or not yet
            made = Calibration.fit(deployed.reference, deployed.card)
            self._known = dict([*self._known.items(), (version, made)][-_KEPT:])
        return self._known.get(version)
