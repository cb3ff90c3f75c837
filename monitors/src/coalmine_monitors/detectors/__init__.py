"""Sequential tests: shifts against a reference's windows, betting, and e-detectors of both."""

from __future__ import annotations

from coalmine_monitors.detectors._baseline import Baseline
from coalmine_monitors.detectors._bayes import LOOK_BACK
from coalmine_monitors.detectors._betting import STAKES, bets_on_less
from coalmine_monitors.detectors._checks import Case, yield_checks
from coalmine_monitors.detectors._ecusum import EDetector
from coalmine_monitors.detectors._evalues import e_benjamini_hochberg
from coalmine_monitors.detectors._shift import ShiftDetector

__all__ = [
    "LOOK_BACK",
    "STAKES",
    "Baseline",
    "Case",
    "EDetector",
    "ShiftDetector",
    "bets_on_less",
    "e_benjamini_hochberg",
    "yield_checks",
]
