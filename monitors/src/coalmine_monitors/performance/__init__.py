"""Realised performance: traffic and labels by block of time, and whether accuracy is lost."""

from __future__ import annotations

from coalmine_monitors.performance._accuracy import AccuracyDetector
from coalmine_monitors.performance._app import create_performance_app
from coalmine_monitors.performance._check import EstimateCheck
from coalmine_monitors.performance._estimate import Calibration, Estimate, Expected
from coalmine_monitors.performance._join import Scored
from coalmine_monitors.performance._schema import (
    Block,
    Evidence,
    Pair,
    Performance,
    PerformanceWindow,
)

__all__ = [
    "AccuracyDetector",
    "Block",
    "Calibration",
    "Estimate",
    "EstimateCheck",
    "Evidence",
    "Expected",
    "Pair",
    "Performance",
    "PerformanceWindow",
    "Scored",
    "create_performance_app",
]
