"""`coalmine label`: what is sent, and which file is refused as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import Control


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "request_id,label\n", "no labels in it"),
        ("b.csv", "", "column 'request_id' is missing"),
        ("c.csv", "request_id,label\nr1,\n", "row 1"),
    ],
)
def test_a_label_file_that_is_of_no_use_is_an_error(
    coalmine: Any, control: Control, tmp_path: Path, name: str, content: str, told: str
) -> None:
    (tmp_path / name).write_text(content)
    done = coalmine("label", str(tmp_path / name))
    assert done.code == 2
    assert told in done.err
    assert control.asked == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "request_id,label,row\na,normal,\nb,2,1\n"),
        ("l.jsonl", '{"request_id":"a","label":"normal"}\n{"request_id":"b","label":2,"row":1}\n'),
    ],
)
def test_labels_are_sent(
    coalmine: Any, control: Control, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    control.answers = {"/collector/v1/labels": (200, {"accepted": 2, "unknown": 0})}
    assert coalmine("label", name).out == "2 accepted, 0 unknown\n"
    first, second = control.asked.pop()[2]["labels"]
    assert (first["request_id"], first["label"], first["row"]) == ("a", "normal", 0)
    assert (second["request_id"], second["label"], second["row"]) == ("b", "2", 1)
    assert first["time"] > 1.7e9


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("l.csv", "request_id,label\na,normal\nb\n", "l.csv: row 2, column 'label': missing"),
        ("l.csv", "id,label\na,normal\n", "l.csv: column 'request_id' is missing"),
        ("l.jsonl", "{}\n", "l.jsonl: row 1, column 'request_id': missing"),
        ("l.jsonl", '{"request_id":"a","label":"x"}\nnope\n', "l.jsonl: row 2: not JSON"),
        ("l.jsonl", "[]\n", "l.jsonl: row 1: a label must be a JSON object"),
        ("l.xlsx", "?", "l.xlsx: labels cannot be read from '.xlsx'; allowed: .csv"),
    ],
)
def test_a_bad_label_is_named_by_its_row_and_column(
    coalmine: Any, control: Control, tmp_path: Path, name: str, text: str, place: str
) -> None:
    (tmp_path / name).write_text(text)
    done = coalmine("label", name)
    assert done.code == 2
    assert place in done.err
    assert control.asked == [], "no half of a batch"
