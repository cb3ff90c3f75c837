"""What can go wrong in a rollout::

RolloutError
├── UnknownRollout           no rollout of this id
├── RolloutRefused           what was asked is not possible now; the message is the reason
├── CandidateUnavailable     the registry has no such version, or its content is damaged
├── EvidenceUnavailable      the performance monitor does not answer, or not as agreed
├── LeaseLost                another controller acts on this database
└── RolloutMoved             somebody else changed the rollout meanwhile: load it again
"""

from __future__ import annotations

__all__ = [
    "CandidateUnavailable",
    "EvidenceUnavailable",
    "LeaseLost",
    "RolloutError",
    "RolloutMoved",
    "RolloutRefused",
    "UnknownRollout",
]


class RolloutError(Exception):
    """The root of the tree."""


class UnknownRollout(RolloutError):
    """No rollout of this id."""


class RolloutRefused(RolloutError):
    """What was asked is not possible now; the message is the reason."""


class CandidateUnavailable(RolloutError):
    """The registry has no such version, or its content is damaged."""


class EvidenceUnavailable(RolloutError):
    """The performance monitor does not answer, or not as agreed: there is no evidence."""


class LeaseLost(RolloutError):
    """Another controller acts on this database; this one must not."""


class RolloutMoved(RolloutError):
    """Somebody else changed the rollout meanwhile: load it again and decide anew."""
