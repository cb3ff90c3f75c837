"""Rollouts decided by evidence: a candidate is promoted, held or rolled back, and it is kept why.

`create_app` is the service; `decide` is the judge it asks, a pure function; `replay` recomputes
what was decided from the ledger. What it acts upon are the protocols `Router`, `ArmHost`,
`ModelRegistry`.
"""

from coalmine.rollout._app import create_app
from coalmine.rollout._decide import Policy, Verdict, VerdictKind, decide
from coalmine.rollout._errors import (
    CandidateUnavailable,
    EvidenceUnavailable,
    LeaseLost,
    RolloutError,
    RolloutMoved,
    RolloutRefused,
    UnknownRollout,
)
from coalmine.rollout._evidence import (
    ArmCounts,
    Block,
    Callers,
    Evidence,
    PairBlock,
    Query,
    Split,
    Window,
)
from coalmine.rollout._guard import GuardResult
from coalmine.rollout._measured import Measured, MeasuredBlock, MeasuredPair, parse_measured
from coalmine.rollout._prometheus import PrometheusEvidence
from coalmine.rollout._protocols import ArmHost, DeployedModel, ModelRegistry, Router
from coalmine.rollout._replay import Replayed, newest_of, replay
from coalmine.rollout._rescue import rescue
from coalmine.rollout._scrape import ScrapeEvidence
from coalmine.rollout._select import select
from coalmine.rollout._source import EvidenceSource, MonitorEvidence
from coalmine.rollout._split_check import SplitResult

__all__ = [
    "ArmCounts",
    "ArmHost",
    "Block",
    "Callers",
    "CandidateUnavailable",
    "DeployedModel",
    "Evidence",
    "EvidenceSource",
    "EvidenceUnavailable",
    "GuardResult",
    "LeaseLost",
    "Measured",
    "MeasuredBlock",
    "MeasuredPair",
    "ModelRegistry",
    "MonitorEvidence",
    "PairBlock",
    "Policy",
    "PrometheusEvidence",
    "Query",
    "Replayed",
    "RolloutError",
    "RolloutMoved",
    "RolloutRefused",
    "Router",
    "ScrapeEvidence",
    "Split",
    "SplitResult",
    "UnknownRollout",
    "Verdict",
    "VerdictKind",
    "Window",
    "create_app",
    "decide",
    "newest_of",
    "parse_measured",
    "replay",
    "rescue",
    "select",
]
