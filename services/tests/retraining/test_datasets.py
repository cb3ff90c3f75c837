"""Training sets by their content: made again from their sources, compared, and pointed at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from coalmine.clock import ManualClock
from coalmine.records import Label, open_log
from coalmine.retraining import (
    DatasetChanged,
    DatasetMissing,
    Window,
    copy_stored,
    describe_training_set,
    difference,
    ensure_stored,
    find_training_set,
    learning,
    list_training_sets,
    recent_rows,
    recreate,
)

from .conftest import ONSET, fill_log, log_uri

if TYPE_CHECKING:
    import pyarrow as pa

    from .fleet import Stage


def recipe(source: Mapping[str, Any], *, parent: str | None, data: Path, scratch: Path) -> pa.Table:
    """What the champion learned, and the recent rows of the tests' model."""
    import pyarrow as pa

    log = open_log(source["log_uri"])
    window = Window("1", ONSET, ONSET + 100, source["labels"])
    rows = learning.split_recent(recent_rows(log, window, features=("a", "b"), limit=10_000))
    log.close()
    parts = [learning.with_texts(rows, origin="recent")]
    if parent is not None:
        known = learning.read_rows(ensure_stored(parent, data=data))
        parts.insert(0, learning.with_texts(known, origin="history", split="train"))
    columns = ["a", "b", *learning.META_COLUMNS]
    return learning.labelled_rows(pa.concat_tables([part.select(columns) for part in parts]))


def make(state: Path, *, at: float = 1.0, parent: str | None = None) -> str:
    """A training set of what the log holds now, as a pipeline makes it; its digest."""
    log = open_log(log_uri(state))
    source = {"kind": "records", "log_uri": log_uri(state), "labels": log.end_label()}
    log.close()
    data = state / "data"
    rows = recipe(source, parent=parent, data=data, scratch=state)
    digest = learning.store_training_set(rows, data=data)
    describe_training_set(
        digest,
        data=data,
        recipe=f"{__name__}:recipe",
        source=source,
        parent=parent,
        clock=ManualClock(start=at),
    )
    return digest


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    fill_log(tmp_path, since=ONSET)
    return tmp_path


def test_it_is_made_again_as_it_was_whatever_is_labelled_since(filled: Path) -> None:
    digest = make(filled)
    log = open_log(log_uri(filled))
    log.put_labels([Label("r1", "ok", ONSET + 9e6), Label("r250", "bad", ONSET + 9e6)])
    log.close()
    later = make(filled, at=2.0)
    assert later != digest
    data = filled / "data"
    assert [m["digest"] for m in list_training_sets(data)] == [later, digest]
    out = filled / "out" / "again.parquet"
    manifest = find_training_set(digest.removeprefix("sha256:")[:8], data=data)
    recreate(manifest, data=data, out=out)
    assert hashlib.sha256(out.read_bytes()).hexdigest() == digest.removeprefix("sha256:")
    copy_stored(manifest, data=data, out=out)
    assert make(filled, at=3.0) == later  # the same content, made again, is the same training set
    assert list_training_sets(data)[0]["created"] == 2.0


def test_what_is_missing_is_said(filled: Path) -> None:
    data, digest = filled / "data", make(filled)
    manifest = find_training_set(digest, data=data)
    log = open_log(log_uri(filled))
    fill_log(filled, since=ONSET, first=300, requests=1, labelled=1)
    log.expire(max_bytes=5_000)
    log.close()
    out = filled / "again.parquet"
    with pytest.raises(DatasetMissing, match=r"gone.*expired.*records of 2026-11-21"):
        recreate(manifest, data=data, out=out)
    assert not out.exists()
    path = learning.training_set_path(digest, data=data)
    path.write_bytes(path.read_bytes() + b"?")
    with pytest.raises(DatasetChanged, match="is not what was stored"):
        copy_stored(manifest, data=data, out=out)
    path.unlink()
    with pytest.raises(DatasetMissing, match="is gone"):
        copy_stored(manifest, data=data, out=out)


def test_a_parent_that_is_gone_is_made_again_first(filled: Path) -> None:
    data, parent = filled / "data", make(filled)
    fill_log(filled, since=ONSET + 10, first=300, requests=50, labelled=50)
    digest = make(filled, at=2.0, parent=parent)
    learning.training_set_path(parent, data=data).unlink()
    recreate(find_training_set(digest, data=data), data=data, out=filled / "again.parquet")
    assert learning.training_set_path(parent, data=data).exists()


def test_a_difference_says_what_moved(filled: Path) -> None:
    data, before = filled / "data", make(filled)
    fill_log(filled, since=ONSET + 10, first=300, requests=50, labelled=50)
    after = make(filled, at=2.0)
    found = difference(
        find_training_set(before, data=data)["summary"],
        find_training_set(after, data=data)["summary"],
    )
    assert found["rows"] == [400, 600]
    assert sum(counts[1] for counts in found["classes"].values()) == 600
    assert set(found["features"]) == {"a", "b"}
    shifts = [abs(feature["shift"]) for feature in found["features"].values()]
    assert shifts == sorted(shifts, reverse=True)
    json.dumps(found, allow_nan=False)


def test_the_pointer_is_one_that_dvc_reads(filled: Path) -> None:
    data, digest = filled / "data", make(filled)
    path = learning.training_set_path(digest, data=data)
    pointer = yaml.safe_load(path.with_name(f"{path.name}.dvc").read_text(encoding="utf-8"))
    assert pointer == {
        "outs": [
            {
                "md5": hashlib.md5(path.read_bytes()).hexdigest(),
                "size": path.stat().st_size,
                "hash": "md5",
                "path": path.name,
            }
        ]
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("abc", "give at least 4 hex digits"),
        ("nonsense", "is not a digest"),
        ("*" * 8, "is not a digest"),
        ("0123456789", "there is no training set '0123456789'"),
    ],
)
def test_a_digest_that_is_none_is_told(tmp_path: Path, given: str, message: str) -> None:
    with pytest.raises(DatasetMissing, match=message):
        find_training_set(given, data=tmp_path)


def test_a_manifest_that_is_torn_is_named(filled: Path) -> None:
    make(filled)
    (path,) = (filled / "data").glob("*.json")
    path.write_text(path.read_text()[:50])
    with pytest.raises(DatasetMissing, match=path.name):
        list_training_sets(filled / "data")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_reference_applications_sets_are_made_again(stage: Stage, tmp_path: Path) -> None:
    from coalmine.apps.ev_battery import CLASSES

    from .fleet import retrain

    retrain(stage, tmp_path, [CLASSES[index] for index in stage.truth])
    data = stage.state / "data"
    newest, *_, first = list_training_sets(data)
    assert newest["parent"] == first["digest"]
    for manifest in (newest, first):  # from the record log; from a file of telemetry
        learning.training_set_path(manifest["digest"], data=data).unlink()
        recreate(manifest, data=data, out=tmp_path / "again.parquet")
