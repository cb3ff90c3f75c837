"""Labels in files: CSV, JSON, JSON lines, Parquet and Arrow, read a piece at a time.

Columns: `request_id`, `label` (a class by name or index), and if known `row` (the place in the
request, 0) and `time` (when the truth became known: seconds since the epoch, or ISO 8601). Others
are passed over. Rows are counted from 1, without a header.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal

import orjson

from coalmine.records._errors import MalformedLabelsError
from coalmine.records._types import Label

__all__ = ["LABEL_FORMATS", "LabelFormat", "label_format", "numbered_labels", "read_labels"]

LabelFormat = Literal["csv", "json", "jsonl", "parquet", "arrow"]

#: Formats by media type and by the ending of a file's name.
LABEL_FORMATS: dict[str, LabelFormat] = {
    "text/csv": "csv",
    ".csv": "csv",
    "application/json": "json",
    ".json": "json",
    "application/x-ndjson": "jsonl",
    "application/jsonl": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    "application/vnd.apache.parquet": "parquet",
    "application/x-parquet": "parquet",
    ".parquet": "parquet",
    "application/vnd.apache.arrow.stream": "arrow",
    "application/vnd.apache.arrow.file": "arrow",
    ".arrow": "arrow",
    ".feather": "arrow",
}

_REQUIRED, _COLUMNS = ("request_id", "label"), ("request_id", "label", "row", "time")
#: Labels of a piece: one transaction, some megabytes.
_PIECE = 10_000
#: A JSON document is read whole; larger ones are for the other formats.
_MAX_JSON = 64 * 1024**2
#: Seconds that the clock of whoever labels may be ahead of ours.
_AHEAD = 300.0
_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_MAX_ID, _MAX_LABEL = 65_535, 1_024


def label_format(name: str) -> LabelFormat:
    """The format of a media type or a file's ending; MalformedLabelsError names those allowed."""
    found = LABEL_FORMATS.get(name.partition(";")[0].strip().lower())
    if found is None:
        allowed = ", ".join(
            key for key in LABEL_FORMATS if key.startswith(".") is name.startswith(".")
        )
        raise MalformedLabelsError(f"labels cannot be read from {name!r:.80}; allowed: {allowed}")
    return found


def read_labels(file: BinaryIO, format: LabelFormat, *, now: float) -> Iterator[list[Label]]:
    """The labels of a file in pieces; one without a time has `now`.

    MalformedLabelsError names the row and the column. A label dated after `now`, but for some
    minutes of difference between clocks, is a mistake: it would outlive every correction, and
    milliseconds look like it.
    """
    with contextlib.closing(numbered_labels(file, format, now=now)) as numbered:
        while piece := [label for _, label in itertools.islice(numbered, _PIECE)]:
            yield piece


def numbered_labels(
    file: BinaryIO, format: LabelFormat, *, now: float
) -> Generator[tuple[int, Label], None, None]:
    """The labels of a file, each with the number of its row; as `read_labels`."""
    rows = {
        "csv": _csv, "json": _json, "jsonl": _json_lines, "parquet": _parquet, "arrow": _arrow
    }[format](file)  # fmt: skip
    with contextlib.closing(rows):  # at once, while the caller's file is open
        for number, row in rows:
            yield number, _label(number, row, now)


Rows = Generator[tuple[int, Mapping[str, Any]], None, None]


def _csv(file: BinaryIO) -> Rows:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        reader = csv.DictReader(text, strict=True)
        _check_columns(reader.fieldnames or ())
        number = 0
        while True:
            number += 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except (csv.Error, UnicodeDecodeError) as error:
                raise MalformedLabelsError(f"row {number}: not CSV in UTF-8: {error}") from None
            if None in row:
                raise MalformedLabelsError(f"row {number}: more values than columns")
            yield number, {name: value or None for name, value in row.items()}
    except UnicodeDecodeError as error:
        raise MalformedLabelsError(f"the header is not CSV in UTF-8: {error}") from None
    finally:
        text.detach()  # the file is the caller's


def _json(file: BinaryIO) -> Rows:
    data = file.read(_MAX_JSON + 1)
    if len(data) > _MAX_JSON:
        raise MalformedLabelsError(
            f"more than {_MAX_JSON} bytes of JSON: use JSON lines, CSV, Parquet or Arrow"
        )
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedLabelsError(f"not JSON: {error}") from None
    if isinstance(content, dict):
        content = content.get("labels")
    if not isinstance(content, list):
        raise MalformedLabelsError('not a list of labels, nor {"labels": [...]}')
    yield from _objects(enumerate(content, start=1))


def _json_lines(file: BinaryIO) -> Rows:
    def lines() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise MalformedLabelsError(f"row {number}: not JSON: {error}") from None

    yield from _objects(lines())


def _objects(items: Iterable[tuple[int, Any]]) -> Rows:
    for number, item in items:
        if not isinstance(item, dict):
            raise MalformedLabelsError(f"row {number}: a label must be a JSON object")
        for name in item:
            if name not in _COLUMNS:
                allowed = ", ".join(_COLUMNS)
                raise MalformedLabelsError(
                    f"row {number}, column {name!r:.80}: unknown; a label has {allowed}"
                )
        yield number, item


def _parquet(file: BinaryIO) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
        names = parquet.schema_arrow.names
        _check_columns(names)
        kept = [name for name in _COLUMNS if name in names]
        yield from _batches(parquet.iter_batches(batch_size=_PIECE, columns=kept))
    except (pa.ArrowException, OSError) as error:
        raise MalformedLabelsError(f"not Parquet: {error}") from None


def _arrow(file: BinaryIO) -> Rows:
    import pyarrow as pa

    try:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        if is_file:
            opened = pa.ipc.open_file(file)
            _check_columns(opened.schema.names)
            batches = (opened.get_batch(number) for number in range(opened.num_record_batches))
        else:
            stream = pa.ipc.open_stream(file)
            _check_columns(stream.schema.names)
            batches = iter(stream)
        yield from _batches(batches)
    except (pa.ArrowException, OSError) as error:
        raise MalformedLabelsError(f"not Arrow: {error}") from None


def _batches(batches: Iterable[Any]) -> Rows:
    number = 0
    for batch in batches:
        batch.validate(full=True)
        columns = {name: batch.column(name) for name in _COLUMNS if name in batch.schema.names}
        for start in range(0, batch.num_rows, _PIECE):
            try:
                lists = [_values(column.slice(start, _PIECE)) for column in columns.values()]
            except (ValueError, OverflowError, LookupError) as error:  # no UTF-8, say
                raise MalformedLabelsError(f"from row {number + 1} on: {error}") from None
            for values in zip(*lists, strict=True):
                number += 1
                yield number, dict(zip(columns, values, strict=True))


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):  # Python's have no nanoseconds, and few years and zones
        whole = column.cast(pa.int64()).to_pylist()
        unit = _UNITS[column.type.unit]
        return [None if value is None else value / unit for value in whole]
    values: list[Any] = column.to_pylist()
    return values


def _check_columns(names: Iterable[str]) -> None:
    found = list(names)
    for name in _COLUMNS:
        if found.count(name) > 1:
            raise MalformedLabelsError(f"column {name!r} is there {found.count(name)} times")
    for name in _REQUIRED:
        if name not in found:
            listed = ", ".join(found) or "none"
            raise MalformedLabelsError(f"column {name!r} is missing; there are: {listed:.200}")


def _label(number: int, row: Mapping[str, Any], now: float) -> Label:
    checks = {"request_id": _id, "label": _class, "row": _row, "time": _time}
    values: dict[str, Any] = {}
    for name, check in checks.items():
        try:
            value = row.get(name)
            values[name] = now if name == "time" and value is None else check(value)
            if name == "time" and values[name] > now + _AHEAD:
                raise ValueError(f"{value!s:.40} is in the future; give seconds since the epoch")
        except (ValueError, TypeError, OverflowError) as error:
            raise MalformedLabelsError(f"row {number}, column {name!r}: {error}") from None
    return Label(values["request_id"], values["label"], values["time"], values["row"])


def _id(value: Any) -> str:
    return _short_text(value if isinstance(value, str) else _whole(value), _MAX_ID)


def _class(value: Any) -> str:
    """The name of a class, or its index; of a model that answers with a number, a number."""
    if isinstance(value, float) and math.isfinite(value) and value != int(value):
        return repr(value)
    return _short_text(value if isinstance(value, str) else _whole(value), _MAX_LABEL)


def _row(value: Any) -> int:
    try:
        number = 0 if value is None else int(value) if isinstance(value, str) else _whole(value)
    except ValueError:
        number = -1
    if not 0 <= int(number) < 2**31:
        raise ValueError(f"{value!r:.40} is not a place in a request, from 0")
    return int(number)


def _short_text(value: Any, limit: int) -> str:
    text = str(value)
    if not 1 <= len(text) <= limit:
        raise ValueError(f"must be a text of 1 to {limit} characters")
    return text


def _whole(value: Any) -> int:
    """A whole number, also as the float that a column with gaps makes of it."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        kind = "missing" if value is None else f"{value!r:.40}"
        raise ValueError(f"{kind}, where a text or a whole number must be")
    if not math.isfinite(value) or value != int(value):
        raise ValueError(f"{value!r:.40} is not a whole number")
    return int(value)


def _time(value: Any) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                raise ValueError(f"{value!r:.40} is neither seconds nor ISO 8601") from None
    if isinstance(value, datetime):  # UTC, where no zone is said
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40} is not a time: seconds since the epoch, or ISO 8601")
    return float(value)
