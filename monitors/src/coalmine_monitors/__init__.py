"""Drift, performance and data-quality monitors that consume Coalmine's inference records.

Each monitor is a FastAPI app whose lifespan runs one background consumer of a record log. Its
verdicts and its place in the log are saved in one transaction, so a killed monitor carries on where
it was.
"""

from __future__ import annotations

from coalmine_monitors.drift import create_drift_app
from coalmine_monitors.performance import create_performance_app
from coalmine_monitors.quality import create_quality_app

__all__ = ["create_drift_app", "create_performance_app", "create_quality_app"]
