"""Drift of features and predictions against the reference of the model version that is stable."""

from __future__ import annotations

from coalmine_monitors.drift._app import create_drift_app, watched_columns
from coalmine_monitors.drift._build import MIN_WINDOWS, build_reference, build_segments
from coalmine_monitors.drift._detector import DriftDetector
from coalmine_monitors.drift._distances import psi
from coalmine_monitors.drift._joint import watch_together
from coalmine_monitors.drift._reference import Reference
from coalmine_monitors.drift._segments import Segments
from coalmine_monitors.drift._streams import Extend, Extension

__all__ = [
    "MIN_WINDOWS",
    "DriftDetector",
    "Extend",
    "Extension",
    "Reference",
    "Segments",
    "build_reference",
    "build_segments",
    "create_drift_app",
    "psi",
    "watch_together",
    "watched_columns",
]
