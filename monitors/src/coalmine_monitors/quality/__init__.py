"""Data quality, apart from drift: a fault is to be repaired, not learnt."""

from __future__ import annotations

from coalmine_monitors.quality._app import create_quality_app
from coalmine_monitors.quality._detector import QualityDetector
from coalmine_monitors.quality._rules import Fault, Rule, build_rules, faults

__all__ = ["Fault", "QualityDetector", "Rule", "build_rules", "create_quality_app", "faults"]
