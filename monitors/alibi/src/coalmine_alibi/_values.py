"""Whether a value of the service file is what an option's description says."""

from __future__ import annotations

from typing import Any

__all__ = ["fits"]


def fits(value: Any, allowed: str | tuple[str, ...]) -> bool:
    """Whether `value` is one of the words `allowed`, or what its sentence describes.

    >>> fits(3, "a whole number of 1 or more"), fits(True, "a whole number of 1 or more")
    (True, False)
    """
    if isinstance(allowed, tuple):
        return value in allowed
    if allowed == "true or false":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if isinstance(value, list):
        least = 2 if "of 2 or more" in allowed else 1
        whole = "whole" in allowed
        return (
            "list" in allowed
            and bool(value)
            and all(
                _is_whole(item, least) if whole else _is_number(item) and item > 0 for item in value
            )
        )
    if allowed.startswith("a list"):
        return False
    if allowed.startswith("`auto`"):
        return value == "auto" or _is_whole(value, 1) or (_is_number(value) and 0 < value < 1)
    if allowed.startswith("a whole number"):
        return _is_whole(value, 1)
    if allowed == "a number between 0 and 1":
        return _is_number(value) and 0 < value < 1
    return _is_number(value) and 0 < value < float("inf")


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
