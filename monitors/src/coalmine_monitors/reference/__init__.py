"""A reference from a table of training or validation data, and what it is good for.

`matrix`, `answered` and `times` are how the monitors read the rows of records and references.
"""

from __future__ import annotations

from coalmine_monitors._rows import answered, matrix, times
from coalmine_monitors.reference._rows import TRUE_LABEL, reference_rows
from coalmine_monitors.reference._summary import FeatureSummary, ReferenceSummary, summarise

__all__ = [
    "TRUE_LABEL",
    "FeatureSummary",
    "ReferenceSummary",
    "answered",
    "matrix",
    "reference_rows",
    "summarise",
    "times",
]
