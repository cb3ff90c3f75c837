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

from coalmine.records import RecordLog, archive

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
