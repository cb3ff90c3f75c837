"""What production has seen since an onset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coalmine.records import (
    BatchId,
    InferenceRecord,
    Label,
    RecordLog,
    archive,
    open_log,
    record_batch,
)
from coalmine.retraining import NotEnoughData, Window, recent_rows
from coalmine.retraining._recent import count_labelled, count_rows

from .conftest import CARD, fill_log, log_uri

ONSET = 1_700_000_000.0
FEATURES = ("a", "b")


def read(log: RecordLog, window: Window, limit: int = 10_000) -> dict[str, list[object]]:
    found: dict[str, list[object]] = recent_rows(
        log, window, features=FEATURES, limit=limit
    ).to_pydict()
    return found


def test_rows_since_the_onset_with_the_labels_that_have_come(tmp_path: Path) -> None:
    fill_log(tmp_path, since=ONSET - 100, requests=50, labelled=50)
    fill_log(tmp_path, since=ONSET, first=50, requests=30, labelled=10)
    log = open_log(log_uri(tmp_path))
    window = Window("1", ONSET, ONSET + 1000)
    assert (count_rows(log, window), count_labelled(log, window)) == (120, 40)
    found = read(log, window)
    assert found["group"][:5] == ["r50"] * 4 + ["r51"]
    assert found["time"] == sorted(found["time"])  # type: ignore[type-var] # they are numbers
    assert found["time"][0] == ONSET
    assert [label is None for label in found["true_label"]] == [False] * 40 + [True] * 80
    newest = read(log, window, limit=8)
    assert newest["group"] == ["r78"] * 4 + ["r79"] * 4
    log.close()


def test_the_shadow_and_repetitions_count_once(tmp_path: Path) -> None:
    fill_log(tmp_path, since=ONSET, requests=10, labelled=10)
    fill_log(tmp_path, since=ONSET + 0.001, requests=10, labelled=10, arm="shadow")
    fill_log(tmp_path, since=ONSET + 0.002, requests=5, labelled=5, arm="canary")  # retried there
    log = open_log(log_uri(tmp_path))
    window = Window("1", ONSET, ONSET + 1000)
    assert len(read(log, window)["group"]) == 40
    assert count_labelled(log, window) == 40
    log.close()


def test_a_correction_of_a_label_is_what_is_learned(tmp_path: Path) -> None:
    fill_log(tmp_path, since=ONSET, requests=1, labelled=1)
    log = open_log(log_uri(tmp_path))
    log.put_labels([Label("r0", "bad", ONSET + 50, row) for row in range(4)])
    assert read(log, Window("1", ONSET, ONSET + 9))["true_label"] == ["bad"] * 4
    log.close()


def test_the_window_is_half_open_and_of_one_version(tmp_path: Path) -> None:
    fill_log(tmp_path, since=ONSET, requests=10, labelled=0)
    log = open_log(log_uri(tmp_path))
    assert count_rows(log, Window("1", ONSET, ONSET)) == 0
    assert count_rows(log, Window("1", ONSET + 0.02, ONSET + 0.05)) == 12
    assert count_rows(log, Window("2", ONSET, ONSET + 9)) == 0
    with pytest.raises(NotEnoughData, match="version 2 has answered nothing"):
        recent_rows(log, Window("2", ONSET, ONSET + 9), features=FEATURES, limit=10)
    log.close()


def test_a_long_log_is_not_read_from_its_beginning(tmp_path: Path) -> None:
    log = open_log(log_uri(tmp_path))
    rng = np.random.default_rng(0)
    for hour in range(200):
        record = InferenceRecord(
            request_id=f"h{hour}",
            time=ONSET + 3600.0 * hour,
            protocol="v1",
            latency_us=1,
            inputs={"features": rng.normal(size=(4, 2)).astype(np.float32)},
            outputs={"label": np.zeros(4, np.int64)},
        )
        batch = record_batch([record], card=CARD, model_version="1", arm="stable")
        log.append(batch, batch_id=BatchId("e", 4 * hour + 1, 4 * hour + 4))
    reads: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(log, name)

        def read(self, after: int, **more: Any) -> object:
            found = log.read(after, **more)
            reads.append(sum(batch.num_rows for _, batch in found))
            return found

    window = Window("1", ONSET + 3600.0 * 190, ONSET + 3600.0 * 500)
    assert count_rows(Counting(), window) == 40  # type: ignore[arg-type] # a log that counts
    assert sum(reads) < 100
    log.close()


def test_what_expired_from_the_log_is_read_from_the_archive(tmp_path: Path) -> None:
    fill_log(tmp_path, since=ONSET, requests=20, labelled=15)
    fill_log(tmp_path, since=ONSET + 100, first=20, requests=20, labelled=20)
    fill_log(tmp_path, since=ONSET + 200, first=40, requests=20, labelled=5)
    log, directory = open_log(log_uri(tmp_path)), tmp_path / "archive"
    window = Window("1", ONSET, ONSET + 300, log.end_label())
    before = recent_rows(log, window, features=FEATURES, limit=10_000)
    counts = (count_rows(log, window), count_labelled(log, window))
    archive(log, directory)
    for kept in (2, 1, 0):  # batches that stay in the log
        log.expire(max_bytes=0, up_to={0: log.end_offset() - kept})
        after = recent_rows(log, window, features=FEATURES, limit=10_000, archive=directory)
        assert after.equals(before)
        assert count_rows(log, window, archive=directory) == counts[0]
        assert count_labelled(log, window, archive=directory) == counts[1]
    # One that comes now, for a row that has long left.
    log.put_labels([Label("r19", "bad", ONSET + 999, 0)])
    late = Window("1", ONSET, ONSET + 300)
    assert count_labelled(log, late, archive=directory) == counts[1] + 1
    assert recent_rows(log, window, features=FEATURES, limit=10_000, archive=directory).equals(
        before
    )
    with pytest.raises(NotEnoughData, match="answered nothing"):
        recent_rows(log, late, features=FEATURES, limit=10_000)
    log.close()


def test_a_long_archive_is_not_read_from_its_beginning(tmp_path: Path) -> None:
    fill_log(tmp_path, since=ONSET, requests=5, labelled=5)
    fill_log(tmp_path, since=ONSET + 5 * 86_400, first=5, requests=5, labelled=5)
    log, directory = open_log(log_uri(tmp_path)), tmp_path / "archive"
    archive(log, directory)
    log.expire(max_bytes=0)
    (old,) = directory.glob("model=*/version=1/day=2023-11-14/*.parquet")
    old.write_bytes(b"not to be read")
    window = Window("1", ONSET + 4 * 86_400, ONSET + 6 * 86_400)
    assert count_rows(log, window, archive=directory) == 20
    log.close()


def test_labels_of_another_version_or_of_before_change_nothing(tmp_path: Path) -> None:
    fill_log(tmp_path, since=ONSET, requests=10, labelled=10)
    log = open_log(log_uri(tmp_path))
    window = Window("1", ONSET, ONSET + 1000)
    before = read(log, window)
    other = InferenceRecord(
        request_id="other",
        time=ONSET + 0.5,
        protocol="v1",
        latency_us=1,
        inputs={"features": np.zeros((4, 2), np.float32)},
        outputs={"label": np.zeros(4, np.int64)},
    )
    batch = record_batch([other], card=CARD, model_version="2", arm="stable")
    log.append(batch, batch_id=BatchId("other", 1, 4))
    poison = [Label("other", "bad", ONSET + 99, row) for row in range(4)]
    # Dated before the truth that is known, and before the prediction itself.
    wrong = [("ok" if label == "bad" else "bad") for label in before["true_label"][:4]]
    poison += [Label("r0", label, ONSET - 86_400, row) for row, label in enumerate(wrong)]
    poison += [Label("nobody", "bad", ONSET + 99)]
    counts = log.put_labels(poison)
    assert (counts.accepted, counts.repeated, counts.unknown) == (4, 4, 1)
    assert read(log, window) == before
    log.close()
