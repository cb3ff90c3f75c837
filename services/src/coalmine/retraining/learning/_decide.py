"""The promotion gate: one string, `promote` or `reject`, and why.

All thresholds, missing values and parity are judged here and nowhere else: conditions in the
pipeline language have silent failures (docs/retraining.md), so the pipeline branches on this string
alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, TypeGuard

from coalmine.retraining.learning._earlier import WHOLE
from coalmine.retraining.learning._segments import holm


@dataclass(frozen=True, slots=True)
class Gate:
    """What a candidate must show."""

    min_holdout_rows: int = 200
    """Fewer rows judge nothing."""

    significance: float = 0.05
    """Of the sign test against the champion, or against the commonest class when there is none; and
    of the tests that it is no worse in any segment, together."""

    segment_loss: float = 0.05
    """Accuracy that it may lose in a segment even where the loss is certain."""

    earlier_loss: float = 0.02
    """Accuracy that it may surely lose on the labels that judged the champion, where inputs are as
    they were then; of a class `segment_loss`. More is for a person to look at."""

    first_segment_accuracy: float = 0.5
    """What a first model, which has no champion to be worse than, must reach in every segment: less
    is a reason to reject where most uploads are surely answered wrongly."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The gate's answer."""

    decision: Literal["promote", "reject"]
    reasons: tuple[str, ...]


def decide(
    evaluation: Mapping[str, Any],
    parity: Mapping[str, Any],
    gate: Gate,
    *,
    segments: Sequence[Mapping[str, Any]] = (),
) -> Decision:
    """Judge the reports of an evaluation, of its segments and of the parity check.

    `evaluation` has `candidate` and (None for a first model) `champion`, classification reports of
    the same holdout, and `paired`, the comparison with the champion or with the commonest class.
    `earlier`, if it is there, is what `judge_by_earlier` says of the labels that judged it.
    Anything else that is missing or not a number is a reason to reject.
    """
    objections = [*_parity_objections(parity), *_objections(evaluation, gate)]
    if evaluation.get("champion") is not None:
        objections += _segment_objections(segments, gate)
        objections += _earlier_objections(evaluation.get("earlier") or (), gate)
    else:
        objections += _first_segment_objections(segments, gate)
    if objections:
        return Decision("reject", tuple(objections))
    candidate, champion = evaluation["candidate"], evaluation.get("champion")
    accuracy = f"{candidate['accuracy']:.4f} on {candidate['rows']} holdout rows"
    p_value = f"p = {evaluation['paired']['p_not_better']:.2g}"
    if champion is None:
        return Decision("promote", (f"first model: accuracy {accuracy}, {p_value}",))
    return Decision(
        "promote",
        (f"accuracy {accuracy} against the champion's {champion['accuracy']:.4f}, {p_value}",),
    )


def _parity_objections(parity: Mapping[str, Any]) -> list[str]:
    if parity.get("passed") is True and parity.get("rows_with_missing", 0) > 0:
        return []
    return [
        "the exported network does not say what the trained model says: "
        f"{parity.get('label_mismatches', 'unknown')} labels differ, probabilities by up to "
        f"{parity.get('max_difference', 'unknown')}"
    ]


def _objections(evaluation: Mapping[str, Any], gate: Gate) -> list[str]:
    candidate: Mapping[str, Any] = evaluation.get("candidate") or {}
    rows, accuracy = candidate.get("rows", 0), candidate.get("accuracy")
    if not rows >= gate.min_holdout_rows:
        return [f"{rows} holdout rows, {gate.min_holdout_rows} are needed to judge"]
    if not _is_number(accuracy):
        return [f"the candidate's accuracy is {accuracy}"]
    paired: Mapping[str, Any] = evaluation.get("paired") or {}
    p_value = paired.get("p_not_better")
    if not _is_number(p_value):
        return ["there is no paired comparison"]
    champion = evaluation.get("champion")
    rival = "the champion" if champion is not None else "always answering the commonest class"
    if champion is not None and not _is_number(champion.get("accuracy")):
        return [f"the champion's accuracy is {champion.get('accuracy')}"]
    if not p_value <= gate.significance:
        against = f" ({champion['accuracy']:.4f})" if champion is not None else ""
        return [
            f"accuracy {accuracy:.4f} is not shown to be better than {rival}{against}: "
            f"p = {p_value:.2g}, {gate.significance:g} is needed"
        ]
    return []


def _segment_objections(segments: Sequence[Mapping[str, Any]], gate: Gate) -> list[str]:
    """Where it is much worse, and surely so, however good it is elsewhere."""
    unknown = [str(s.get("segment")) for s in segments if not _is_number(s.get("p_not_worse"))]
    if unknown:
        return [f"there is no paired comparison where {', '.join(unknown)}"]
    known = holm([segment["p_not_worse"] for segment in segments])
    return [
        f"worse than the champion where {segment['segment']}: accuracy "
        f"{segment['candidate_accuracy']:.4f} against {segment['champion_accuracy']:.4f} on "
        f"{segment['rows']} rows, p = {p:.2g} over {len(known)} segments"
        for segment, p in zip(segments, known, strict=True)
        if p <= gate.significance
        and segment["champion_accuracy"] - segment["candidate_accuracy"] > gate.segment_loss
    ]


def _earlier_objections(earlier: Sequence[Mapping[str, Any]], gate: Gate) -> list[str]:
    """Where it contradicts what was true of the same inputs, which no drift of them explains."""
    if any(not _is_number(part.get("p_not_worse")) for part in earlier):
        return ["there is no paired comparison on the labels that judged the champion"]
    known = holm([part["p_not_worse"] for part in earlier])
    found = [
        f"{part['segment']}: accuracy {part['candidate_accuracy']:.4f} against "
        f"{part['champion_accuracy']:.4f} on {part['rows']} rows, p = {p:.2g}"
        for part, p in zip(earlier, known, strict=True)
        if p <= gate.significance
        and part["champion_accuracy"] - part["candidate_accuracy"]
        > (gate.earlier_loss if part["segment"] == WHOLE else gate.segment_loss)
    ]
    if not found:
        return []
    return [
        "worse than the champion on the labels that judged it, where inputs are as they were then "
        f"({'; '.join(found)}): the new labels are wrong there, or the world has changed in a way "
        "that no input shows; a person must say which"
    ]


def _first_segment_objections(segments: Sequence[Mapping[str, Any]], gate: Gate) -> list[str]:
    """Where a first model is wrong more often than right, and surely so."""
    unknown = [str(s.get("segment")) for s in segments if not _is_number(s.get("p_mostly_right"))]
    if unknown:
        return [f"nothing is known of the accuracy where {', '.join(unknown)}"]
    known = holm([segment["p_mostly_right"] for segment in segments])
    return [
        f"a first model that is mostly wrong where {segment['segment']}: accuracy "
        f"{segment['candidate_accuracy']:.4f} on {segment['rows']} rows, "
        f"{gate.first_segment_accuracy:g} is needed, p = {p:.2g} over {len(known)} segments"
        for segment, p in zip(segments, known, strict=True)
        if p <= gate.significance and segment["candidate_accuracy"] < gate.first_segment_accuracy
    ]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
