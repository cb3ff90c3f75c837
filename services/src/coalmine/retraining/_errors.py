"""What can go wrong in retraining.

RetrainingError
  DataInvalid          the data failed validation; the message says how, `report` in full
  NotEnoughData        too few rows to learn from or to judge by
  ModelInvalid         a network or its card is not what the pipeline promised
  RegistryError        the registry cannot do what was asked
    UnknownVersion     no such model version
    DigestMismatch     what was stored is not what was registered
  DatasetMissing       a training set, or what it was made from, is not there
  DatasetChanged       what was made again is not what it was
  WebhookInvalid       a webhook body that is not Alertmanager's
  RunRefused           a manual run that the policy does not allow now; the message is the reason
  UnknownRun           no such run
  StoreBusy            other retrainers keep the database busy; the same call may succeed later
"""

from __future__ import annotations

__all__ = [
    "DataInvalid",
    "DatasetChanged",
    "DatasetMissing",
    "DigestMismatch",
    "ModelInvalid",
    "NotEnoughData",
    "RegistryError",
    "RetrainingError",
    "RunRefused",
    "StoreBusy",
    "UnknownRun",
    "UnknownVersion",
    "WebhookInvalid",
]


class RetrainingError(Exception):
    """Any failure of retraining that is not a defect of the program."""


class DataInvalid(RetrainingError):
    """The data failed validation."""

    def __init__(self, message: str, *, report: str) -> None:
        super().__init__(message)
        self.report = report


class NotEnoughData(RetrainingError):
    """Too few rows to learn from or to judge by."""


class ModelInvalid(RetrainingError):
    """A network or its card is not what the pipeline promised."""


class RegistryError(RetrainingError):
    """The registry cannot do what was asked."""


class UnknownVersion(RegistryError):
    """No such model version."""


class DigestMismatch(RegistryError):
    """What was stored is not what was registered."""


class DatasetMissing(RetrainingError):
    """A training set, or what it was made from, is not there."""


class DatasetChanged(RetrainingError):
    """A training set that was made again, or kept, is not what it was."""


class WebhookInvalid(RetrainingError):
    """A webhook body that is not Alertmanager's."""


class RunRefused(RetrainingError):
    """A manual run that the policy does not allow now."""


class UnknownRun(RetrainingError):
    """No such run."""


class StoreBusy(RetrainingError):
    """Other retrainers keep the database busy; the same call may succeed later."""
