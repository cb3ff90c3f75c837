"""The truth ledger: accuracy, its intervals, and labels that are owed until acknowledged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coalmine.demo._ledger import Answered, Phase, TruthLedger, accuracy_of

CLASSES = ("normal", "fault")


def answer(
    number: int, *, right: int, of: int = 8, version: str = "1", phase: Phase = Phase.BEFORE
) -> Answered:
    truth = np.zeros(of, np.int64)
    predicted = np.array([0] * right + [1] * (of - right), np.int64)
    return Answered(f"r{number}", 1000.0 + number, phase, "v2", "stable", version, truth, predicted)


def test_accuracy_counts_windows_of_its_phase_only() -> None:
    ledger = TruthLedger(classes=CLASSES)
    ledger.answered(answer(0, right=8), label_due=[0.0] * 8)
    ledger.answered(answer(1, right=4), label_due=[0.0] * 8)
    ledger.answered(answer(2, right=0, phase=Phase.AFTER), label_due=[0.0] * 8)
    before = ledger.accuracy(Phase.BEFORE)
    assert before.value == pytest.approx(0.75)
    assert (before.windows, before.requests) == (16, 2)
    assert ledger.accuracy(Phase.AFTER).value == 0.0
    assert math.isnan(ledger.accuracy(Phase.DURING).value)


def test_interval_is_wider_when_the_windows_of_an_upload_err_together() -> None:
    together = accuracy_of(answer(i, right=8 if i % 10 else 0) for i in range(500))
    apart = accuracy_of(answer(i, right=7 if i % 10 < 8 else 8) for i in range(500))
    assert together.value == pytest.approx(apart.value, abs=1e-3)
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        share = rng.beta(9, 1, size=120)  # each upload has its own difficulty; the mean is 0.9
        accuracy = accuracy_of(
            answer(i, right=int(rng.binomial(8, p))) for i, p in enumerate(share)
        )
        covered += accuracy.low <= 0.9 <= accuracy.high
    assert 0.91 <= covered / 400 <= 0.99


def test_a_label_is_owed_from_its_day_on_and_in_that_order() -> None:
    ledger = TruthLedger(classes=CLASSES)
    ledger.answered(answer(0, right=2, of=2), label_due=[5.0, 1.0])
    assert ledger.owed(now=0.5, limit=10) == []
    first = ledger.owed(now=1.0, limit=10)
    assert [(label.request_id, label.row, label.label) for label in first] == [("r0", 1, "normal")]
    assert [label.row for label in ledger.owed(now=math.inf, limit=10)] == [0]
    assert (ledger.labels_due, ledger.labels_delivered) == (2, 0)
    ledger.delivered(2)
    assert ledger.labels_delivered == 2


def test_bins_and_versions_are_told_apart() -> None:
    ledger = TruthLedger(classes=CLASSES)
    for i in range(10):
        version = "1" if i < 6 else "2"
        ledger.answered(
            answer(i, right=8 if version == "2" else 4, version=version), label_due=[0.0] * 8
        )
    bins = ledger.bins(seconds=5.0)
    assert [(b.time, b.version, b.accuracy.requests) for b in bins] == [
        (1002.5, "1", 5), (1007.5, "1", 1), (1007.5, "2", 4),
    ]  # fmt: skip
    versions = ledger.by_version()
    assert versions["2"]["accuracy"] == 1.0
    assert versions["1"]["last_answer"] == 1005.0
    assert ledger.recent(since=1008.0) == {"2": accuracy_of(ledger.answers[8:])}
