"""The faults of alibi-detect that a service must not have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import COLUMNS, rows, service, shifted

from coalmine_alibi import AlibiConfigError, _check, check
from coalmine_alibi._build import build_detector
from coalmine_alibi._check import least_bootstraps
from coalmine_alibi._library import load_class, seeded
from coalmine_alibi._online import OnlineJudge
from coalmine_monitors.extension import UnusableReferenceError


def plan_of(**settings: Any) -> Any:
    (plan,) = check(service(settings))
    return plan


@pytest.mark.parametrize(
    ("name", "columns", "options"),
    [("CVMDriftOnline", [0, 1], {}), ("FETDriftOnline", [3], {"lam": 0.7})],
)
def test_bounded_state_gives_the_verdicts_of_the_unbounded_one(
    name: str, columns: list[int], options: dict[str, Any]
) -> None:
    reference, stream = rows(0, 150)[:, columns], rows(1, 300)[:, columns]
    if name == "FETDriftOnline":
        reference, stream = reference.astype(bool), stream.astype(bool)

    def make() -> Any:
        with seeded(3, window=0):
            return load_class("alibi_detect.cd", name)(
                reference, 200, [10, 25], n_bootstraps=1500, verbose=False, **options
            )

    raw, bounded = make(), make()
    judge = OnlineJudge(bounded, prepare=lambda block: block)
    sizes = set()
    for start in range(0, len(stream), 25):
        block = stream[start : start + 25]
        with seeded(3, window=1 + start):
            theirs = []
            for row in block:
                theirs.append(raw.predict(row)["data"]["is_drift"])
                if theirs[-1]:
                    raw.reset_state()
        with seeded(3, window=1 + start):
            ours = judge.judge(block)
        assert ours.alarm == any(theirs)
        if start > 50:
            sizes.add(len(json.dumps(judge.state())) // 2000)
        assert len(bounded.xs) <= 25
        assert len(bounded.test_stats) <= 1
    assert len(raw.xs) > 25 or raw.t < 25
    assert max(sizes) - min(sizes) <= 1


def test_permutations_never_give_a_p_value_of_0() -> None:
    plan = plan_of(detector="MMDDrift", window_rows=50, reference_rows=100, expected_run_length=20)
    detector = build_detector(plan, COLUMNS, rows(0, 300))
    far = rows(1, 50)[:, :4]
    far += 50.0
    detector.update(far, np.arange(50.0))
    assert detector.report["p_value"] == 1 / 101
    assert detector.report["alarm"]


def test_chances_that_rounding_made_negative_are_0() -> None:
    with seeded(0, window=0):
        assert np.random.binomial(10, -1e-9) == 0
        assert np.random.binomial(10, 1 + 1e-9) == 10
    with pytest.raises(ValueError, match="p < 0"):
        np.random.binomial(10, -1e-9)


def test_seeds_decide() -> None:
    def thresholds(seed: int) -> Any:
        plan = plan_of(
            detector="CVMDriftOnline",
            features=["a"],
            window_rows=10,
            expected_run_length=50,
            reference_rows=60,
            options={"n_bootstraps": 300},
            seed=seed,
        )
        detector = build_detector(plan, COLUMNS, rows(0, 300))
        detector.update(rows(1, 10)[:, :1], np.arange(10.0))
        return detector.report["threshold"]

    assert thresholds(1) == thresholds(1)
    assert thresholds(1) != thresholds(2)


@pytest.mark.parametrize(
    ("settings", "key", "said"),
    [
        ({"detector": "KSDrift", "options": {"pval": 0.1}}, "options.pval", "p_val"),
        ({"detector": "KSDrift", "options": {"correction": "holm"}}, "options.correction", "fdr"),
        ({"detector": "MMDDrift", "options": {"n_permutations": 0}}, "n_permutations", "1 or more"),
        (
            {
                "detector": "MMDDrift",
                "expected_run_length": 500,
                "options": {"n_permutations": 100},
            },
            "options.n_permutations",
            "499 at least",
        ),
        (
            {"detector": "KSDrift", "expected_run_length": 9, "options": {"p_val": 0.1}},
            "options.p_val",
            "leave one out",
        ),
        ({"detector": "KSDrift", "window_rows": 10}, "window_rows", "20 at least"),
        (
            {
                "detector": "CVMDriftOnline",
                "features": ["a", "b", "c"],
                "options": {"n_bootstraps": 1000},
            },
            "options.n_bootstraps",
            "at least",
        ),
        ({"saved": "nowhere", "trusted": True, "features": ["a"]}, "saved", "no directory"),
    ],
)
def test_what_cannot_be_is_refused_with_key_and_fix(
    settings: dict[str, Any], key: str, said: str
) -> None:
    with pytest.raises(AlibiConfigError, match=said) as caught:
        check(service(settings))
    assert caught.value.key.startswith("monitors.alibi.0.")
    assert caught.value.key.endswith(key)


def test_a_detector_without_its_framework_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_check, "backends", lambda: ())
    with pytest.raises(AlibiConfigError, match=r"\[tensorflow\].*\[torch\]"):
        check(service({"detector": "MMDDrift"}))
    assert check(service({"detector": "KSDrift"}))


def test_the_least_bootstraps_are_enough() -> None:
    # The quantile is asked for at every step, of the streams that are left.
    least = least_bootstraps(100, features=4, steps=39)
    with seeded(0, window=0):
        load_class("alibi_detect.cd", "CVMDriftOnline")(
            rows(0, 60)[:, :1].repeat(4, axis=1), 100, [20], n_bootstraps=least, verbose=False
        )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"detector": "KSDrift", "features": ["nobody"]}, "there is no nobody; there are: a, b"),
        ({"detector": "KSDrift", "features": ["mode"]}, "mode is not numeric"),
        ({"detector": "FETDrift", "features": ["a"]}, "a is not binary"),
        ({"detector": "IForest", "window_rows": 2000}, "less than one window"),
        ({"detector": "SpectralResidual"}, "name one feature"),
        ({"detector": "CVMDriftOnline", "window_rows": 100, "reference_rows": 300}, "400 complete"),
    ],
)
def test_a_reference_that_does_not_suit_says_why(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UnusableReferenceError, match=said):
        build_detector(plan_of(**settings), COLUMNS, rows(0, 1000))


def test_a_saved_detector_is_judged_with(tmp_path: Path) -> None:
    detector = load_class("alibi_detect.cd", "KSDrift")(rows(0, 500)[:, :2], p_val=0.001)
    load_class("alibi_detect.saving", "save_detector")(detector, tmp_path / "ks")
    plan = plan_of(saved=str(tmp_path / "ks"), trusted=True, features=["a", "b"], window_rows=100)
    assert (plan.detector, plan.run_length) == ("KSDrift", 1000)
    judged = build_detector(plan, COLUMNS, rows(0, 1000))
    judged.update(rows(1, 100)[:, :2], np.arange(100.0))
    assert not judged.report["alarm"]
    judged.update(shifted(2, 100)[:, :2], 100 + np.arange(100.0))
    assert judged.report["alarm"]
    assert judged.finding is not None
    assert [item.name for item in judged.finding.features] == ["a"]


def test_rows_that_depend_on_each_other_make_false_alarms() -> None:
    """As docs/alibi.md says of KSDrift, windows of 500 against 5,000 rows, p = 0.05."""

    def share(rho: float) -> float:
        rng = np.random.default_rng(5)
        noise = rng.standard_normal((5000 + 60 * 500, 1)) * np.sqrt(1 - rho**2)
        for place in range(1, len(noise)):
            noise[place] += rho * noise[place - 1]
        plan = plan_of(detector="KSDrift", features=["a"], expected_run_length=20)
        detector = build_detector(plan, COLUMNS[:1], noise[:5000])
        alarms = 0
        for start in range(5000, len(noise), 500):
            detector.update(noise[start : start + 500], np.arange(500.0))
            alarms += detector.report["alarm"]
        return alarms / 60

    assert share(0.0) < 0.15
    assert share(0.9) > 0.5
