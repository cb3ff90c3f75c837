"""Summaries of a stream that have a fixed size and add up over windows, replicas and partitions."""

from __future__ import annotations

from coalmine_monitors.sketches._histogram import (
    BINS,
    Histograms,
    category_edges,
    numeric_edges,
)

__all__ = ["BINS", "Histograms", "category_edges", "numeric_edges"]
