"""Detectors for streams of one value, row by row, with a declared run length between alarms."""

from __future__ import annotations

from coalmine_monitors.online._bounded import BoundedMeanDetector
from coalmine_monitors.online._scores import ScoreDetector

__all__ = ["BoundedMeanDetector", "ScoreDetector"]
