"""What can go wrong::

AlibiError
└── AlibiConfigError    the service file asks for what cannot be; names the key and the fix

What a version's reference makes impossible is an `UnusableReferenceError` of the monitors.
"""

from __future__ import annotations

__all__ = ["AlibiConfigError", "AlibiError"]


class AlibiError(Exception):
    """The root of the tree."""


class AlibiConfigError(AlibiError, ValueError):
    """The service file asks for what cannot be."""

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        super().__init__(f"{key}: {message}")
