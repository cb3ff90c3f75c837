"""Answers for a person on a terminal, and as JSON for a program."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["show"]


def show(content: Any) -> None:
    """Print JSON, with colours where there is a terminal."""
    from rich.console import Console

    Console().print_json(json.dumps(content))
