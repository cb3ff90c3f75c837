"""From a judged model to a registered one: its reference, its lineage, and the notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coalmine.apps.ev_battery.steps._common import (
    CROSS_FITTED,
    EVALUATION,
    FACTS,
    PARITY,
    ROWS,
    SEGMENTS,
    TRAINED,
    Champion,
    read_json,
)
from coalmine.apps.ev_battery.steps._model import decision_of
from coalmine.modeldir import MODEL_FILE, load_card
from coalmine.retraining import (
    Lineage,
    Notice,
    RegisteredVersion,
    emit_event,
    learning,
    notify,
    read_events_of_run,
    step,
)


def set_up_drift_monitoring(
    features: Path, trained: Path, *, candidate: Path, window_rows: int, out: Path
) -> None:
    """Give the model the reference that its monitors compare with.

    Before it is registered, so that no version ever exists without one.
    """
    with step("set-up-drift-monitoring"), learning.without_data_frames():
        learning.write_model(out, network=candidate / MODEL_FILE, card=load_card(candidate))
        cross_fitted = None
        if (trained / CROSS_FITTED).exists():
            with np.load(trained / CROSS_FITTED) as found:
                cross_fitted = learning.CrossFitted(found["rows"], found["probabilities"])
        learning.build_reference(
            learning.read_rows(features / ROWS),
            out,
            cross_fitted=cross_fitted,
            window_rows=window_rows,
            is_traffic=read_json(features / FACTS)["source"] == "records",
        )


@dataclass(frozen=True, slots=True)
class Story:
    """Why a model was made, and where its steps wrote."""

    run_id: str
    reason: str
    features: Path
    trained: Path
    report: Path
    validation: Path
    data: Path


def register_model(model: Path, *, story: Story, champion: Champion) -> RegisteredVersion:
    """Store the model with its lineage in the registry, as `challenger`."""
    with step("register-model"), learning.without_data_frames():
        known = champion.registry().register(model, lineage=_lineage(story, "promote"))
        emit_event("registered", version=known.version, digest=known.digest)
        return known


def record_rejection(candidate: Path, *, story: Story, champion: Champion) -> None:
    """Keep what was tried and why it was rejected, without making a version of it."""
    with step("record-rejection"), learning.without_data_frames():
        champion.registry().record(candidate, lineage=_lineage(story, "reject"))


def notify_outcome(*, run_id: str, model_name: str, reason: str, state: str, error: str) -> None:
    """Tell people how the run ended; the exit step, which runs in every outcome."""
    with step("notify"):
        message = error
        for event in read_events_of_run():
            if event["event"] == "decision":
                message = f"{event['decision']}: {'; '.join(event['reasons'])}"
            elif event["event"] == "step" and event["state"] == "failed":
                message = f"{event['name']}: {event['error']}"
        notify(Notice(run=run_id, model=model_name, outcome=state, reason=reason, message=message))


def _lineage(story: Story, decision: str) -> Lineage:
    facts, trained = read_json(story.features / FACTS), read_json(story.trained / TRAINED)
    evaluation, parity = read_json(story.report / EVALUATION), read_json(story.report / PARITY)
    metrics: dict[str, float] = {
        "accuracy": evaluation["candidate"]["accuracy"],
        "holdout_rows": evaluation["candidate"]["rows"],
        "p_not_better": evaluation["paired"]["p_not_better"],
        "parity_max_difference": parity["max_difference"],
        "parity_label_mismatches": parity["label_mismatches"],
        **trained["metrics"],
    }
    if evaluation["champion"] is not None:
        metrics["champion_accuracy"] = evaluation["champion"]["accuracy"]
    for window, loss in trained["history"]["loss"].items():
        metrics[f"history_loss {_plain(window)}"] = loss
    for name, scores in evaluation["candidate"]["classes"].items():
        metrics[f"recall_{name}"] = scores["recall"]
    return Lineage(
        run=story.run_id,
        reason=story.reason,
        decision=decision,
        reasons=decision_of(story.report).reasons,
        parity="passed" if parity["passed"] else "failed",
        params={**facts, **trained["params"]},
        metrics={key: value for key, value in metrics.items() if np.isfinite(value)},
        training_data=facts["training_data"],
        data_source=str(learning.training_set_path(facts["training_data"], data=story.data)),
        reports={
            "evaluation": story.report / EVALUATION,
            "parity": story.report / PARITY,
            "segments": story.report / SEGMENTS,
            "training": story.trained / TRAINED,
            "validation": story.validation,
        },
    )


def _plain(text: str) -> str:
    """A name that MLflow takes for a metric."""
    return text.replace(",", "")
