"""Small tables to learn from. For the tests."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from coalmine.retraining import learning

FEATURES = ("a", "b", "c")
CLASSES = ("ok", "warm", "hot")


def rows(n: int, *, seed: int, origin: str, shift: float = 0.0, start: float = 0.0) -> pa.Table:
    """With `shift` the classes lie elsewhere, and the third feature tells so."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    x[:, 2] += 2 * shift
    label = np.digitize(x[:, 0] + shift + 0.1 * rng.normal(size=n), [-0.5, 0.5])
    x[rng.random(x.shape) < 0.01] = np.nan
    return pa.table(
        {
            **{name: x[:, index] for index, name in enumerate(FEATURES)},
            "true_label": [CLASSES[index] for index in label],
            "time": start + np.arange(n, dtype=np.float64),
            "group": [f"{origin}-{index // 4}" for index in range(n)],
            "origin": [origin] * n,
        }
    )


def drifted(*, shift: float = 1.2) -> pa.Table:
    """History of the old world, and recent rows of a new one; the newest without labels."""
    old = learning.with_texts(rows(3000, seed=1, origin="history"), split="train")
    new = rows(1200, seed=2, origin="recent", shift=shift, start=1e6)
    late = pa.array([None if n >= 1000 else label for n, label in enumerate(new["true_label"])])
    new = learning.split_recent(new.set_column(3, "true_label", late.cast(pa.string())))
    return pa.concat_tables([part.select(old.column_names) for part in (old, new)])
