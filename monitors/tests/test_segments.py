"""Segments cut by features: what belongs to which, and how many there can be."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from pydantic import ValidationError

from coalmine.spec import MonitorsSpec, SegmentColumnSpec
from coalmine_monitors._segments import MAX_SEGMENTS, OTHER, segment_indices, segment_names


def batch(categories: list[str]) -> pa.RecordBatch:
    schema = pa.schema(
        [
            pa.field("soc", pa.float32(), metadata={"role": "feature"}),
            pa.field(
                "mode",
                pa.int64(),
                metadata={"role": "feature", "categories": json.dumps(categories)},
            ),
        ]
    )
    return pa.record_batch([[5.0, 20.0, 79.9, None], [0, 1, 7, None]], schema=schema)


def test_a_row_is_in_one_segment_of_each_feature_or_in_none() -> None:
    specs = [
        SegmentColumnSpec(feature="soc", edges=(20, 80)),
        SegmentColumnSpec(feature="mode"),
        SegmentColumnSpec(feature="elsewhere"),
    ]
    (soc, at), (mode, of) = segment_indices(batch(["drive", "charge"]), specs)
    assert soc == ("soc<20", "20<=soc<80", "soc>=80")
    assert at.tolist() == [0, 1, 1, -1]
    assert mode == ("mode=drive", "mode=charge")
    assert of.tolist() == [0, 1, -1, -1], "an unknown category is no segment"


def test_many_categories_share_the_last_segment() -> None:
    many = [f"m{index}" for index in range(100)]
    names = segment_names(SegmentColumnSpec(feature="mode"), many)
    assert len(names) == MAX_SEGMENTS
    assert names[-1] == f"mode={OTHER}"
    ((_, of),) = segment_indices(batch(many), [SegmentColumnSpec(feature="mode")])
    assert of.tolist() == [0, 1, 7, -1]


def test_a_number_without_edges_cuts_nothing() -> None:
    assert segment_indices(batch(["drive"]), [SegmentColumnSpec(feature="soc")]) == []


def test_edges_rise() -> None:
    with pytest.raises(ValidationError, match="edges: numbers that rise"):
        MonitorsSpec.model_validate({"segments": [{"feature": "soc", "edges": [5, 5]}]})
