"""Labels that must not be learned from: poisoned, mixed up, or of another model.

A share of labels flipped at random teaches nothing, and the gate finds the candidate no better.
But labels that are wrong in one way can be learned, and the holdout has the same wrong labels:
there the gate sees an improvement. What gives them away is the champion, for which no share alone
will do: a loop that does not learn a change of the world is worse than a candidate for nothing, and
a change may contradict all that the champion is sure of within one class. (Of the reference
application's new cell chemistry, in 12 fleets and windows of 500 rows or more: up to 98 % of
`capacity_fade`, and 29 % of all classes together; 51 % of all where every vehicle has it.)

So a class that is mostly contradicted is looked at more closely. In a world that has changed, the
contradicted rows lie elsewhere than the rows of that class that taught the champion; labels that
are mixed up lie where they always did. Trees tell the two apart with an area under the ROC curve of
0.98 or more after the change of chemistry (8000 rows; in windows of 500 the upper limit was never
below 0.90), and 0.73 or less for labels mixed up in a world that has not changed (0.80 in 2000).

And a change stays within a class or two (of a second class it contradicted 28 % at most, of a third
13 %), where faults that are written off as `normal` do not.

What no check of this kind can tell from a change of the world is a wrong label that is chosen by
the features, or comes with a change of the weather: there the labels' source must be trusted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coalmine.retraining._errors import DataInvalid
from coalmine.retraining.learning._elsewhere import told_apart
from coalmine.retraining.learning._rows import TRUE_LABEL

if TYPE_CHECKING:
    import pyarrow as pa


#: Classes: of two, a drift may move both.
_SEVERAL = 3


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """Rows with labels, and what the champion says of them."""

    truth: np.ndarray
    """Class indices [rows], -1 for a row without a label."""

    said: np.ndarray
    """Class indices [rows], -1 for what is no class."""

    probability: np.ndarray
    """What it gives its answer [rows]."""

    features: np.ndarray
    """[rows, features]"""

    groups: np.ndarray
    """Of which upload each row is [rows]."""

    def surely(self, index: int, limits: LabelLimits) -> np.ndarray:
        """The labelled rows that are surely of a class to the champion, bool [rows]."""
        known = (self.truth >= 0) & (self.probability >= limits.sure)
        found: np.ndarray = known & (self.said == index)
        return found


@dataclass(frozen=True, slots=True)
class LabelLimits:
    """How far labels may go from what the champion is sure of."""

    sure: float = 0.9
    """Probability from which the champion is."""

    contradicted: float = 0.6
    """Of all that it is sure of."""

    mixed_up: float = 0.5
    """Of one class that it is sure of, to one other, while they lie where they did."""

    elsewhere: float = 0.85
    """Area under the ROC curve from which contradicted rows lie elsewhere: the world changed.

    Only an upper limit below it says that they do not: few rows may always be a change.
    """

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
    recent: Answered,
    *,
    taught: Answered,
    classes: tuple[str, ...],
    limits: LabelLimits | None = None,
) -> None:
    """Compare recent labels with what the champion says; `taught` are the rows that made it.

    `DataInvalid` lists what contradicts it too much to be learned without a person.
    """
    limits = limits or LabelLimits()
    sure, wrong, judged = 0, 0, 0
    findings, doubted = [], []
    for index, name in enumerate(classes):
        labels = recent.truth[recent.surely(index, limits)]
        sure += len(labels)
        wrong += int((labels != index).sum())
        if len(labels) < limits.min_rows:
            continue
        judged += 1
        share = float((labels != index).mean())
        if share > limits.widespread:
            doubted.append(f"{name!r} {share:.0%}")
        counts = np.bincount(labels, minlength=len(classes))
        counts[index] = 0
        other = int(counts.argmax())
        if counts[other] > limits.mixed_up * len(labels) and not _elsewhere(
            recent, taught, index=index, limits=limits
        ):
            findings.append(
                f"{counts[other]} of {len(labels)} rows that are surely {name!r} to it are "
                f"labelled {classes[other]!r}, and lie where those lay that taught it"
            )
    if sure >= limits.min_rows and wrong > limits.contradicted * sure:
        findings.insert(0, f"labels contradict {wrong} of {sure} answers that it is sure of")
    if len(doubted) >= _SEVERAL and 2 * len(doubted) > judged:
        findings.append(f"labels contradict it in most classes at once: {', '.join(doubted)}")
    if findings:
        raise _invalid(findings)


def _elsewhere(recent: Answered, taught: Answered, *, index: int, limits: LabelLimits) -> bool:
    """Whether the rows of a class that contradict the champion lie where the others do not."""
    now, then = recent.surely(index, limits), taught.surely(index, limits)
    then &= taught.truth == index
    here = np.concatenate([recent.truth[now] != index, np.zeros(int(then.sum()), dtype=bool)])
    if (~here).sum() < limits.min_rows:  # nothing to compare with, and a change must not be refused
        return True
    _, at_most = told_apart(
        np.concatenate([recent.features[now], taught.features[then]]),
        here,
        groups=np.concatenate([recent.groups[now].astype(str), taught.groups[then].astype(str)]),
    )
    return at_most > limits.elsewhere


def _invalid(findings: list[str]) -> DataInvalid:
    title = "Labels against the champion"
    lines = [f"# {title}: failed, {len(findings)} findings", "", *(f"- {f}" for f in findings), ""]
    return DataInvalid(f"{title}: {'; '.join(findings)}", report="\n".join(lines))
