"""What keeps the local stack from running.

StackError               any failure of this package, told in one line
  PortsTakenError        a port of the stack is in use; names the part and how to change it
  AlreadyRunningError    another `up` runs on the state directory; `running` says what
  NotRunningError        nothing runs on the state directory
  PartFailedError        a part did not come up; names its log
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from coalmine.stack._state import Running

__all__ = [
    "AlreadyRunningError",
    "NotRunningError",
    "PartFailedError",
    "PortsTakenError",
    "StackError",
]


class StackError(Exception):
    """Any failure of the local stack; the message is one line for a person."""


class PortsTakenError(StackError):
    """A port of the stack is in use."""


class AlreadyRunningError(StackError):
    """Another `up` runs on the state directory."""

    def __init__(self, state: Path, running: Running) -> None:
        self.running = running
        super().__init__(f"already running on {state}: pid {running.pid}")


class NotRunningError(StackError):
    """Nothing runs on the state directory."""

    def __init__(self, state: Path) -> None:
        super().__init__(
            f"nothing runs on {state}; start it with: coalmine up FILE --state {state}"
        )


class PartFailedError(StackError):
    """A part did not come up."""
