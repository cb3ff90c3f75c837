"""What can go wrong with records::

    RecordsError
    ├── SchemaError             a model card whose columns cannot make a record
    ├── SpoolInUseError         another process emits into the same spool directory
    ├── MalformedBatchError     not a record batch, or not of one model version and arm
    ├── MalformedEventError     not a CloudEvent of KServe's logger
    ├── MalformedLabelsError    not labels; the message names the row and the column
    └── LogError
        ├── LogUnavailableError     try again later: busy or shutting down
        └── LogFullError            try again later: no space left

`emit` raises none of them: what cannot be recorded is counted, and the prediction goes on.
"""

from __future__ import annotations

__all__ = [
    "LogError",
    "LogFullError",
    "LogUnavailableError",
    "MalformedBatchError",
    "MalformedEventError",
    "MalformedLabelsError",
    "RecordsError",
    "SchemaError",
    "SpoolInUseError",
]


class RecordsError(Exception):
    """The root of the tree."""


class SchemaError(RecordsError, ValueError):
    """A model card whose columns cannot make a record; the message names the column."""


class SpoolInUseError(RecordsError):
    """Another process emits into the same spool directory; the message names it."""


class MalformedBatchError(RecordsError, ValueError):
    """Bytes that are not a batch of records; sending them again cannot help."""


class MalformedEventError(RecordsError, ValueError):
    """Not a CloudEvent of KServe's logger; the message names the attribute."""


class MalformedLabelsError(RecordsError, ValueError):
    """Not labels; the message names the row and the column. None of the delivery is stored."""


class LogError(RecordsError):
    """The log could not do what was asked; nothing of it was stored."""


class LogUnavailableError(LogError):
    """The log is busy or shutting down: the same call may succeed later."""


class LogFullError(LogError):
    """No space is left: the same call may succeed once there is some."""
