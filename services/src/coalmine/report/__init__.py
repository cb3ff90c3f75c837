"""The drift report: one HTML file about a model and a range of time, that loads nothing.

`collect` asks the monitors and counts the records, `render` makes the page.
"""

from __future__ import annotations

from coalmine.report._collect import Ask, collect, offline
from coalmine.report._facts import Facts, ReportError, Shape
from coalmine.report._page import render

__all__ = ["Ask", "Facts", "ReportError", "Shape", "collect", "offline", "render"]
