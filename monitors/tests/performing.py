"""What the tests of the performance monitor share."""

from __future__ import annotations

from typing import Any

import numpy as np

from coalmine_monitors import create_performance_app

from .conftest import truth_of


def app_of(world: Any, service: Any, state: str = "performance.db") -> Any:
    return create_performance_app(
        service, log=world.log, state=world.root / state, models=world.models
    )


def total(evidence: Any, key: str, **where: str) -> int:
    return sum(
        block[key]
        for block in evidence["blocks"]
        if all(block[name] == value for name, value in where.items())
    )


def honest(world: Any, sent: Any, *, wrong: float = 0.0) -> Any:
    """The truth that the model is as sure of as it says; a share `wrong` of it turned round."""
    rows = world.sent_rows.reshape(-1, world.sent_rows.shape[-1])
    truth = truth_of(rows, world.rng)
    truth = np.where(world.rng.random(len(truth)) < wrong, 1 - truth, truth)
    per_request = truth.reshape(len(sent), -1)
    return [(name, list(map(int, of))) for (name, _), of in zip(sent, per_request, strict=True)]
