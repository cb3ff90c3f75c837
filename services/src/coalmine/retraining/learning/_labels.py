"""Labels that must not be learned from: poisoned, mixed up, or of another model.

A share of labels flipped at random teaches nothing, and the gate finds the candidate no better.
But labels that are wrong in one way can be learned, and the holdout has the same wrong labels:
there the gate sees an improvement. What gives them away is the champion. A world that has changed
contradicts it within a class, and there it may do so more often than not (of the reference
application's new cell chemistry: up to half of what the champion is sure is `capacity_fade`); a
mix-up contradicts it nearly always, class by class, or in most classes at once (a drift of the
reference application never contradicted more than 14 % of a second class; faults that are written
off as `normal` do). So more than that is for a person to look at. A loop that does not learn a
change of the world is worse than a run for nothing, so the limits leave room for one. What no check
of this kind can tell from a change of the world is a wrong label on less than that of a class,
chosen by the features: there the labels' source must be trusted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coalmine.retraining._errors import DataInvalid
from coalmine.retraining.learning._rows import TRUE_LABEL

if TYPE_CHECKING:
    import pyarrow as pa


#: Classes: of two, a drift may move both.
_SEVERAL = 3


@dataclass(frozen=True, slots=True)
class LabelLimits:
    """How far labels may go from what the champion is sure of."""

    sure: float = 0.9
    """Probability from which the champion is."""

    contradicted: float = 0.3
    """Of all that it is sure of."""

    mixed_up: float = 0.8
    """Of one class that it is sure of, to one other."""

    widespread: float = 0.25
    """Of each of most classes that it is sure of, three at least, to any others."""

    unknown: float = 0.05
    """Share of labels that are no class of the model; fewer are left out."""

    min_rows: int = 50
    """Rows of a class below which nothing is said of it."""


def leave_out_unknown(
    rows: pa.Table, classes: tuple[str, ...], *, limits: LabelLimits | None = None
) -> pa.Table:
    """The rows, those whose label is no class of the model as rows without a label.

    `DataInvalid` if they are many: then something else is labelled here.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    limits = limits or LabelLimits()
    labels = rows.column(TRUE_LABEL)
    known = pc.is_in(labels, pa.array(classes, pa.string()))
    strange = Counter(labels.filter(pc.invert(known)).drop_null().to_pylist())
    given = len(labels) - labels.null_count
    if given and sum(strange.values()) > limits.unknown * given:
        named = ", ".join(f"{name[:40]!r} ({n})" for name, n in strange.most_common(5))
        finding = f"{sum(strange.values())} of {given} labels are no class of the model: {named}"
        raise _invalid([finding])
    place = rows.schema.get_field_index(TRUE_LABEL)
    kept = pc.if_else(known, labels, pa.scalar(None, pa.string()))
    return rows.set_column(place, TRUE_LABEL, kept)


def check_labels(
    truth: np.ndarray,
    said: np.ndarray,
    probability: np.ndarray,
    *,
    classes: tuple[str, ...],
    limits: LabelLimits | None = None,
) -> None:
    """Compare labels with what the champion says of the same rows.

    `truth` and `said` are class indices [rows], -1 for a row without a label; `probability` is what
    the champion gives its answer [rows]. `DataInvalid` lists what contradicts it too much.
    """
    limits = limits or LabelLimits()
    sure = (truth >= 0) & (said >= 0) & (probability >= limits.sure)
    findings = []
    wrong = int((truth[sure] != said[sure]).sum())
    if sure.sum() >= limits.min_rows and wrong > limits.contradicted * sure.sum():
        findings.append(f"labels contradict {wrong} of {sure.sum()} answers that it is sure of")
    judged, doubted = 0, []
    for index, name in enumerate(classes):
        of_class = truth[sure & (said == index)]
        if len(of_class) >= limits.min_rows:
            judged += 1
            share = float((of_class != index).mean())
            if share > limits.widespread:
                doubted.append(f"{name!r} {share:.0%}")
        counts = np.bincount(of_class, minlength=len(classes))
        counts[index] = 0
        other = int(counts.argmax())
        if len(of_class) >= limits.min_rows and counts[other] > limits.mixed_up * len(of_class):
            findings.append(
                f"{counts[other]} of {len(of_class)} rows that are surely {name!r} to it are "
                f"labelled {classes[other]!r}"
            )
    if len(doubted) >= _SEVERAL and 2 * len(doubted) > judged:
        findings.append(f"labels contradict it in most classes at once: {', '.join(doubted)}")
    if findings:
        raise _invalid(findings)


def _invalid(findings: list[str]) -> DataInvalid:
    title = "Labels against the champion"
    lines = [f"# {title}: failed, {len(findings)} findings", "", *(f"- {f}" for f in findings), ""]
    return DataInvalid(f"{title}: {'; '.join(findings)}", report="\n".join(lines))
