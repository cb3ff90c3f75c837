"""Summaries of a stream that have a fixed size and add up over windows, replicas and partitions."""

from __future__ import annotations

from coalmine_monitors.sketches._histogram import (
    BINS,
    Histograms,
    category_edges,
    fine_edges,
    numeric_edges,
    pooled,
)
from coalmine_monitors.sketches._quantiles import Quantiles
from coalmine_monitors.sketches._window import SAMPLE_ROWS, WindowSketch, summaries, thinned

__all__ = [
    "BINS",
    "SAMPLE_ROWS",
    "Histograms",
    "Quantiles",
    "WindowSketch",
    "category_edges",
    "fine_edges",
    "numeric_edges",
    "pooled",
    "summaries",
    "thinned",
]
