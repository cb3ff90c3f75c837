"""Drift of features and predictions against the reference of the model version that is stable."""

from __future__ import annotations

from coalmine_monitors.drift._app import create_drift_app, watched_columns
from coalmine_monitors.drift._detector import DriftDetector
from coalmine_monitors.drift._reference import MIN_WINDOWS, Reference, build_reference
from coalmine_monitors.drift._statistics import psi

__all__ = [
    "MIN_WINDOWS",
    "DriftDetector",
    "Reference",
    "build_reference",
    "create_drift_app",
    "psi",
    "watched_columns",
]
