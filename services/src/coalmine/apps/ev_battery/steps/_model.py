"""From the table to a judged model: train, evaluate, decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coalmine.apps.ev_battery._world import CLASSES
from coalmine.apps.ev_battery.steps._common import (
    BOOSTER,
    COLUMNS,
    CROSS_FITTED,
    DECISION,
    EVALUATION,
    FACTS,
    FEATURE_NAMES,
    NATIVE,
    PARITY,
    ROWS,
    TRAINED,
    Champion,
    as_classes,
    read_json,
    write_json,
)
from coalmine.modeldir import MODEL_FILE
from coalmine.retraining import emit_event, learning, step

#: Holdout rows on which the export is compared with the trained model, each also with gaps.
_PARITY_ROWS = 2000


def train_fault_classifier(
    features: Path, out: Path, *, seed: int, trials: int, tuning_seconds: float
) -> None:
    """Tune, train, export to ONNX, and note what the trained model says, for the parity check."""
    with step("train-fault-classifier"), learning.without_data_frames():
        rows = learning.read_rows(features / ROWS)
        trained = learning.train_classifier(
            rows,
            features=FEATURE_NAMES,
            classes=CLASSES,
            seed=seed,
            trials=trials,
            time_budget=tuning_seconds,
        )
        out.mkdir(parents=True, exist_ok=True)
        network = out / MODEL_FILE
        learning.export_onnx(
            trained.booster, features=len(FEATURE_NAMES), classes=len(CLASSES), path=network
        )
        holdout = learning.having(rows, split="holdout")
        inputs = learning.parity_inputs(learning.feature_matrix(holdout, FEATURE_NAMES), seed=seed)
        np.savez(out / NATIVE, inputs=inputs, native=trained.booster.predict(inputs.astype(float)))
        (out / BOOSTER).write_text(trained.booster.model_to_string(), encoding="utf-8")
        if trained.recent is not None:
            np.savez(
                out / CROSS_FITTED,
                rows=trained.recent.rows,
                probabilities=trained.recent.probabilities,
            )
        facts = {
            **trained.params,
            "rounds": trained.rounds,
            "trials": trained.trials,
            "tuning_stopped_by": trained.stopped_by,
            "tuning_loss": trained.tuning_loss,
            "seed": seed,
        }
        write_json(out / TRAINED, facts)


def evaluate(
    features: Path, trained: Path, *, champion: Champion, candidate: Path, report: Path
) -> None:
    """Judge on the holdout: parity, then accuracy in pairs; write the candidate's directory."""
    with step("evaluate"), learning.without_data_frames():
        holdout = learning.having(learning.read_rows(features / ROWS), split="holdout")
        truth = learning.class_indices(holdout, CLASSES)
        matrix = learning.feature_matrix(holdout, FEATURE_NAMES)
        network = learning.Network(trained / MODEL_FILE)
        with np.load(trained / NATIVE) as native:
            parity = learning.check_parity(network, native["inputs"], native["native"])
        said, _ = network.predict(matrix)
        old = champion.directory()
        if old is None:
            rival = np.full_like(truth, np.bincount(truth, minlength=1).argmax())
        else:
            rival = as_classes(learning.Network(old / MODEL_FILE).predict(matrix)[0], old)
        paired = learning.compare(
            said == truth, rival == truth, groups=learning.values(holdout, "group").astype(str)
        )
        found = learning.classification_report(truth, said, classes=CLASSES)
        evaluation = {
            "candidate": found,
            "champion": None
            if old is None
            else {
                "version": champion.version,
                **learning.classification_report(truth, rival, classes=CLASSES),
            },
            "paired": paired.as_dict(),
        }
        report.mkdir(parents=True, exist_ok=True)
        write_json(report / EVALUATION, evaluation)
        write_json(report / PARITY, parity.as_dict())
        card = learning.classifier_card(
            name=champion.name,
            features=COLUMNS,
            classes=CLASSES,
            training_data=read_json(features / FACTS)["training_data"],
            metrics={"accuracy": found["accuracy"], "holdout_rows": float(found["rows"])},
        )
        learning.write_model(candidate, network=trained / MODEL_FILE, card=card)


def decide(report: Path) -> str:
    """`promote` or `reject`: the only thing that the pipeline branches on."""
    with step("decide"):
        found = learning.decide(
            read_json(report / EVALUATION), read_json(report / PARITY), learning.Gate()
        )
        write_json(report / DECISION, {"decision": found.decision, "reasons": found.reasons})
        emit_event("decision", decision=found.decision, reasons=list(found.reasons))
        return found.decision
