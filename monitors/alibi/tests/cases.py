"""Plans as a service file gives them, and rows to judge."""

from __future__ import annotations

from typing import Any

import numpy as np

from coalmine.modeldir import Column
from coalmine.spec import ServiceSpec

COLUMNS = (
    Column(name="a"),
    Column(name="b"),
    Column(name="c"),
    Column(name="flag"),
    Column(name="mode", type="categorical", categories=("drive", "charge", "park")),
)


def service(*alibi: dict[str, Any]) -> ServiceSpec:
    return ServiceSpec.model_validate(
        {
            "name": "demo",
            "model": {"uri": "file:/nowhere"},
            "monitors": {
                "alibi": [{"name": f"m{place}", **each} for place, each in enumerate(alibi)]
            },
        }
    )


def rows(seed: int, count: int) -> np.ndarray[Any, Any]:
    """Independent rows [count, COLUMNS]."""
    rng = np.random.default_rng(seed)
    made = np.empty((count, len(COLUMNS)))
    made[:, :3] = rng.standard_normal((count, 3))
    made[:, 3] = rng.random(count) < 0.3
    made[:, 4] = rng.choice(3, size=count, p=[0.6, 0.3, 0.1])
    return made


def shifted(seed: int, count: int) -> np.ndarray[Any, Any]:
    """The same, changed in one column of each type."""
    rng = np.random.default_rng(seed + 1)
    made = rows(seed, count)
    made[:, 0] += 1.5
    made[:, 3] = rng.random(count) < 0.8
    made[:, 4] = rng.choice(3, size=count, p=[0.1, 0.3, 0.6])
    return made
