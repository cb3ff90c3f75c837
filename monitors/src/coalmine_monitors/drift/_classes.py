"""The shares of the true classes of a window, as far as its predictions tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from prometheus_client.core import Metric

from coalmine.modeldir import Column, ModelCard
from coalmine_monitors._metrics import capped, gauge
from coalmine_monitors.label_shift import BlackBoxShift, reference_shift

__all__ = ["class_metrics", "class_report", "label_shift_of"]

_LABELS = ("model_name", "revision", "monitor")


def label_shift_of(card: ModelCard, reference: pa.Table) -> BlackBoxShift | None:
    """The confusions of a version whose one output is a class; None of others."""
    classes = [column for column in card.output_columns() if column.type == "categorical"]
    return reference_shift(reference, classes[0]) if len(classes) == 1 else None


def class_report(
    shift: BlackBoxShift | None, columns: Sequence[Column], counts: NDArray[np.int64]
) -> dict[str, Any] | None:
    """For people, from a window's counts [columns, bins]; None if nothing is known of classes."""
    place = [index for index, column in enumerate(columns) if shift and column.name == shift.label]
    if shift is None or not place:
        return None
    predicted = counts[place[0], : len(shift.classes)]
    estimate = shift.estimate(predicted)
    if estimate is None:
        return {"refused": shift.refused or "too few predictions in the window"}
    shares = predicted / max(int(predicted.sum()), 1)
    return {
        "refused": "",
        "explained": estimate.explained,
        "shares": {
            name: {
                "estimated": round(float(estimate.share[index]), 6),
                "lower": round(float(estimate.lower[index]), 6),
                "upper": round(float(estimate.upper[index]), 6),
                "predicted": round(float(shares[index]), 6),
                "reference": round(float(shift.shares[index]), 6),
            }
            for index, name in enumerate(shift.classes)
        },
    }


def class_metrics(here: Sequence[str], report: dict[str, Any]) -> Iterable[Metric]:
    """Of what `class_report` gave."""
    shares = report.get("shares", {})
    valid = not report["refused"] and report["explained"]
    yield gauge(
        "coalmine_class_share_valid",
        "Whether shares of true classes can be estimated, and explain the predictions.",
        labels=_LABELS,
        samples=[(here, float(valid))],
    )
    for key, suffix, text in (
        ("estimated", "", "Estimated share of a true class, last window."),
        ("lower", "_lower", "Lower limit of its 95 % interval."),
        ("upper", "_upper", "Upper limit of its 95 % interval."),
    ):
        values = {name: numbers[key] for name, numbers in shares.items()}
        yield gauge(
            f"coalmine_class_share_ratio{suffix}",
            text,
            labels=(*_LABELS, "class"),
            samples=[((*here, name), value) for name, value in capped(list(values), values)],
        )
