"""The records' account, from spools on disk and the collector's statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coalmine.demo._account import Account, account_of
from coalmine.modeldir import Column, ModelCard, Tensor
from coalmine.records import InferenceRecord, RecordEmitter


def test_a_state_without_spools_has_nothing_on_its_way(tmp_path: Path) -> None:
    assert account_of(tmp_path, None) == Account()
    (tmp_path / "spool" / "stable").mkdir(parents=True)
    assert account_of(tmp_path, {"rows": 3}) == Account(in_log=3)


@pytest.mark.parametrize(
    ("account", "settled"),
    [
        (Account(emitted=10, in_log=10), True),
        (Account(emitted=10, in_log=8, dropped=2), True),
        (Account(emitted=10, in_log=8, pending=2), False),
        (Account(emitted=10, in_log=9), False),
        (Account(emitted=10, in_log=11), False),
    ],
)
def test_settled(account: Account, settled: bool) -> None:
    assert account.settled is settled


def test_a_dead_servers_records_are_on_their_way(tmp_path: Path) -> None:
    _emit(tmp_path / "spool" / "canary")
    assert account_of(tmp_path, None) == Account(emitted=5, pending=5)


def _emit(spool: Path) -> None:
    x, y = (
        Tensor(name=name, datatype="FP32", shape=(-1, 1), columns=(Column(name=name),))
        for name in ("x", "y")
    )
    card = ModelCard(name="toy", inputs=(x,), outputs=(y,))
    emitter = RecordEmitter(spool, "http://127.0.0.1:9", card=card, model_version="1", arm="canary")
    value = np.zeros((1, 1), np.float32)
    for number in range(5):
        emitter.emit(
            InferenceRecord(f"r{number}", 1e9 + number, "v2", 900, {"x": value}, {"y": value})
        )
