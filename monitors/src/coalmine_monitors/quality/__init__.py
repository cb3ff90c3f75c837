"""Data quality, apart from drift: a fault is to be repaired, not learnt."""

from __future__ import annotations

from coalmine_monitors.quality._app import create_quality_app
from coalmine_monitors.quality._detector import QualityDetector
from coalmine_monitors.quality._rules import Fault, Rule, build_rules, faults
from coalmine_monitors.quality._stream import StreamChecks

__all__ = [
    "Fault",
    "QualityDetector",
    "Rule",
    "StreamChecks",
    "build_rules",
    "create_quality_app",
    "faults",
]
