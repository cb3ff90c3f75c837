"""What a benchmark can end with.

BenchError      it cannot be run, or its answers are wrong; told in words
"""

from __future__ import annotations

__all__ = ["BenchError"]


class BenchError(Exception):
    """The benchmark cannot be run, or what it measured gave wrong answers."""
