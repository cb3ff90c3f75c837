"""A reference from a table of training or validation data, and what it is good for."""

from __future__ import annotations

from coalmine_monitors.reference._rows import TRUE_LABEL, reference_rows
from coalmine_monitors.reference._summary import FeatureSummary, ReferenceSummary, summarise

__all__ = ["TRUE_LABEL", "FeatureSummary", "ReferenceSummary", "reference_rows", "summarise"]
