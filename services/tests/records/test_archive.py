"""The Parquet archive: whole, without doubles, also when a run is killed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coalmine.records import (
    Label,
    RecordLog,
    archive,
    archive_of,
    archived_labels,
    archived_rows,
    label_archived,
    open_log,
)

MakeBatch = Callable[..., pa.RecordBatch]
DAY = 86_400.0


def _archived(directory: Path) -> pd.DataFrame:
    return pd.read_parquet(directory, engine="pyarrow")


def test_the_archive_is_partitioned_and_read_as_one_table(
    log: RecordLog, append: Any, make_batch: MakeBatch, tmp_path: Path
) -> None:
    append(make_batch(["a", "b"], version="1", time=0.0))
    append(make_batch(["c"], version="2", time=DAY))
    append(make_batch(["d"], version="1", time=DAY + 1))
    directory = tmp_path / "archive"
    assert archive(log, directory) == {0: 3}
    folders = [str(path.parent.relative_to(directory)) for path in directory.rglob("*.parquet")]
    assert sorted(folders) == [
        "model=ev-battery/version=1/day=1970-01-01",
        "model=ev-battery/version=1/day=1970-01-02",
        "model=ev-battery/version=2/day=1970-01-02",
    ]  # fmt: skip
    frame = _archived(directory)
    assert sorted(frame["request_id"]) == ["a", "b", "c", "d"]
    assert set(frame["day"].astype(str)) == {"1970-01-01", "1970-01-02"}


def test_each_run_adds_what_is_new(
    log: RecordLog, append: Any, make_batch: MakeBatch, tmp_path: Path
) -> None:
    directory = tmp_path / "archive"
    assert archive(log, directory) == {0: 0}
    for n in range(5):
        append(make_batch([f"r{n}"]))
        assert archive(log, directory, limit_rows=1) == {0: n + 1}
    assert archive(log, directory) == {0: 5}
    assert sorted(_archived(directory)["request_id"]) == [f"r{n}" for n in range(5)]


@pytest.mark.parametrize("survives", range(4))
def test_a_run_that_dies_is_repeated_without_doubles(
    survives: int,
    log: RecordLog,
    append: Any,
    make_batch: MakeBatch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It dies while writing its n-th file; rows come in before the next run."""
    directory = tmp_path / "archive"
    for n in range(3):
        append(make_batch([f"r{n}"], version=str(n)))
    written = 0
    real = pq.write_table

    def dying(table: pa.Table, where: Path, **more: Any) -> None:
        nonlocal written
        if written == survives:
            where.write_bytes(b"PAR1 half a fi")
            raise KeyboardInterrupt
        written += 1
        real(table, where, **more)

    monkeypatch.setattr(pq, "write_table", dying)
    if survives < 3:
        with pytest.raises(KeyboardInterrupt):
            archive(log, directory)
    else:
        assert archive(log, directory) == {0: 3}
    monkeypatch.undo()
    append(make_batch(["r3"], version="0"))
    assert archive(log, directory, limit_rows=1) == {0: 4}
    assert sorted(_archived(directory)["request_id"]) == ["r0", "r1", "r2", "r3"]
    assert len(list(directory.rglob("*.tmp"))) == 0


def test_the_archive_is_read_by_duckdb_as_the_documentation_says(
    log: RecordLog,
    append: Any,
    make_batch: MakeBatch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Versions with other columns, and a label's model, in one table; the pandas example too."""
    append(make_batch(["a", "b"], version="2", time=0.0, features=3))
    append(make_batch(["c"], version="3", time=DAY))
    archive(log, tmp_path / "archive")
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[3] / "docs" / "records.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```python\nimport (duckdb|pandas).*?\n(.*?)```", text, re.S))
    statement = blocks["duckdb"].split('"""')[1]
    found = duckdb.sql(statement).fetchall()
    assert [(str(version), str(day), rows, ms) for version, day, rows, ms in found] == [
        ("2", "1970-01-01", 2, 0.75), ("3", "1970-01-02", 1, 0.75)
    ]  # fmt: skip
    names: dict[str, Any] = {"pd": pd}
    exec(blocks["pandas"], names)
    assert list(names["frame"]["request_id"]) == ["c"]
    assert "f23" in names["frame"].columns


def test_names_cannot_leave_the_archive(
    log: RecordLog, append: Any, make_batch: MakeBatch, tmp_path: Path
) -> None:
    append(make_batch(["a"], version="../../../etc"))
    archive(log, tmp_path / "archive")
    (path,) = tmp_path.rglob("*.parquet")
    assert path.relative_to(tmp_path / "archive").parts[1] == "version=..%2F..%2F..%2Fetc"


def read_back(log: RecordLog, directory: Path, **window: Any) -> list[str]:
    given = {"model_version": "1", "since": 0.0, "until": 10 * DAY, **window}
    found = [
        table.column("request_id").to_pylist() for table in archived_rows(directory, log, **given)
    ]
    return sorted({name for names in found for name in names})


def test_what_has_left_the_log_is_read_back(
    log: RecordLog, append: Any, make_batch: MakeBatch, tmp_path: Path
) -> None:
    directory = tmp_path / "archive"
    assert read_back(log, directory) == []
    for n in range(4):
        append(make_batch([f"r{n}"], version="1", time=n * DAY))
        archive(log, directory)
    append(make_batch(["other"], version="2", time=DAY))
    archive(log, directory)
    assert read_back(log, directory) == []  # the log has all of it
    log.expire(max_bytes=0, up_to={0: 3})
    assert read_back(log, directory) == ["r0", "r1", "r2"]
    assert read_back(log, directory, since=DAY, until=2 * DAY) == ["r1", "r2"]
    assert read_back(log, directory, since=-1e300, until=1e300) == ["r0", "r1", "r2"]
    assert read_back(log, directory, model_version="3") == []
    (table,) = archived_rows(
        directory, log, model_version="1", since=0.0, until=1.0, columns=["request_id"]
    )
    assert table.column_names == ["request_id"]


def test_labels_are_archived_and_outlive_the_log(
    log: RecordLog, append: Any, make_batch: MakeBatch, clock: Any, tmp_path: Path
) -> None:
    directory = tmp_path / "archive"
    append(make_batch(["a", "b", "c"], version="1", time=5.0))
    log.put_labels([Label("a", "normal", 10.0), Label("b", "1", 10.0)])
    archive(log, directory)
    mark = log.end_label()
    log.expire(max_bytes=0)
    clock.advance(3 * DAY)
    append(make_batch(["later"], version="1", time=3 * DAY))
    log.expire(max_age=DAY)  # the labels go with it
    (table,) = archived_rows(directory, log, model_version="1", since=0.0, until=100.0)

    def known(**more: Any) -> dict[str, str]:
        found = label_archived(directory, log, table, **more)
        return dict(
            zip(*(found.column(c).to_pylist() for c in ("request_id", "true_label")), strict=True)
        )

    assert known() == {"a": "normal", "b": "internal_short"}
    # Late ones, for records that have left: a correction, a first, an older one that comes late.
    late = [Label("a", "2", 20.0), Label("c", "normal", 20.0), Label("b", "normal", 5.0)]
    log.put_labels(late)
    wanted = {"a": "cooling_failure", "b": "internal_short", "c": "normal"}
    assert known() == wanted  # from the log
    archive(log, directory)
    assert known() == wanted  # and from the archive
    assert known(up_to=mark) == {"a": "normal", "b": "internal_short"}
    ids = pa.array(["b"])
    assert archived_labels(directory, log, ids).to_pylist() == [
        {"request_id": "b", "row": 0, "label": "internal_short"}
    ]
    found = {path.relative_to(directory).parts[0] for path in directory.glob("*/*/*/*.parquet")}
    assert found == {"model=ev-battery"}


def test_a_run_that_dies_while_it_writes_labels_writes_them_once(
    log: RecordLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "archive"
    log.put_labels([Label(f"r{n}", "normal", 1.0) for n in range(3)])

    def dying(table: pa.Table, where: Path, **more: Any) -> None:
        where.write_bytes(b"PAR1 half a fi")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", dying)
    with pytest.raises(KeyboardInterrupt):
        archive(log, directory)
    monkeypatch.undo()
    log.put_labels([Label("r3", "normal", 1.0)])
    archive(log, directory)
    found = pa.concat_tables(pq.read_table(path) for path in directory.glob("_labels/*.parquet"))
    assert sorted(found.column("request_id").to_pylist()) == ["r0", "r1", "r2", "r3"]
    assert list(directory.rglob("*.tmp")) == []


def test_a_url_may_name_the_archive(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/r.db?archive={tmp_path}/my%20archive&partitions=2"
    assert archive_of(url) == tmp_path / "my archive"
    log = open_log(url)
    assert log.partitions == 2
    log.close()
    assert archive_of("sqlite:///r.db") is None
    for wrong in ("?archive=", "?archives=x", "?partitions="):
        with pytest.raises(ValueError, match=r"allowed after the \? is partitions=N"):
            open_log(f"sqlite:///{tmp_path}/r.db{wrong}")


def test_a_client_that_changes_a_type_or_has_long_names_stops_no_archive(
    log: RecordLog, append: Any, make_batch: MakeBatch, tmp_path: Path
) -> None:
    plain = make_batch(["a"])
    append(plain)
    append(plain.set_column(plain.schema.get_field_index("f0"), "f0", pa.array(["text"])))
    append(make_batch(["b"], version="v" * 2000))
    append(make_batch(["c"], version="../.."))
    archive(log, tmp_path)
    archive(log, tmp_path)
    files = sorted(tmp_path.rglob("*.parquet"))
    assert sum(pq.read_metadata(file).num_rows for file in files) == 4
    assert len(files) == 4
    assert all(file.parent.parent.parent.parent == tmp_path for file in files)
    log.expire(max_bytes=0)
    assert read_back(log, tmp_path, model_version="v" * 2000, until=1e12) == ["b"]
