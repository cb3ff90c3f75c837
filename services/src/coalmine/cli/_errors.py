"""What a person is told when a command fails.

CommandError    a command cannot do what was asked; the message says what to do instead
└── NoAnswer    a part of the stack does not answer
"""

from __future__ import annotations

import os
import traceback

__all__ = ["TRACEBACK", "CommandError", "NoAnswer", "explain"]

#: Set to anything to see where an unexpected error comes from.
TRACEBACK = "COALMINE_TRACEBACK"
#: Packages whose errors are written for a person, by the first part of their module's name.
_OURS = ("coalmine", "coalmine_monitors", "coalmine_transformers", "coalmine_loadtests")


class CommandError(Exception):
    """A command cannot do what was asked; `status` is what it exits with, 2 for unusable input."""

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class NoAnswer(CommandError):
    """A part of the stack does not answer."""


def explain(error: Exception) -> str:
    """One line (one for each mistake in a service file), never a traceback unless asked for."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    if type(error).__module__.partition(".")[0] in _OURS:
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; install what is missing with: pip install 'coalmine[local]'"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"unexpected {type(error).__name__}: {error} (set {TRACEBACK}=1 to see where)"
