"""From the table to a judged model: train, evaluate, decide."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coalmine.apps.ev_battery._world import CLASSES
from coalmine.apps.ev_battery.steps._common import (
    ANSWERS,
    COLUMNS,
    CROSS_FITTED,
    EVALUATION,
    FACTS,
    FEATURE_NAMES,
    NATIVE,
    PARITY,
    ROWS,
    SEGMENTS,
    TRAINED,
    Champion,
    as_classes,
    read_json,
    write_json,
)
from coalmine.modeldir import MODEL_FILE
from coalmine.retraining import emit_event, learning, step

if TYPE_CHECKING:
    import pyarrow as pa


def budget(*, trials: int, seconds: float, seed: int, study: Path) -> learning.Budget:
    """What the search may spend, and the file that it goes on from when it died."""
    return learning.Budget(trials=trials, seconds=seconds, seed=seed, study=study)


def families(text: str) -> tuple[learning.FamilyName, ...]:
    """The kinds of model that are listed, by commas, in a text."""
    names = tuple(name for name in learning.FAMILIES if name in text.split(","))
    if not names:
        raise ValueError(f"candidates: {text!r}: wanted some of {', '.join(learning.FAMILIES)}")
    return names


def train_fault_classifier(
    features: Path,
    out: Path,
    *,
    budget: learning.Budget,
    candidates: tuple[learning.FamilyName, ...] = learning.FAMILIES,
) -> None:
    """Choose the history, tune, train, export to ONNX; and note what the trained model says."""
    with step("train-fault-classifier"), learning.without_data_frames():
        rows = learning.read_rows(features / ROWS)
        trained = learning.train_classifier(
            rows,
            features=FEATURE_NAMES,
            classes=CLASSES,
            budget=replace(budget, tell=_tell),
            families=learning.installed_families(candidates),
        )
        out.mkdir(parents=True, exist_ok=True)
        trained.model.export(out / MODEL_FILE)
        trained.model.save(out)
        holdout = learning.having(rows, split="holdout")
        matrix = learning.feature_matrix(holdout, FEATURE_NAMES)
        inputs = learning.parity_inputs(matrix, seed=budget.seed)
        np.savez(out / NATIVE, inputs=inputs, native=trained.model.predict(inputs))
        if trained.recent is not None:
            np.savez(
                out / CROSS_FITTED,
                rows=trained.recent.rows,
                probabilities=trained.recent.probabilities,
            )
        write_json(out / TRAINED, _facts(trained, seed=budget.seed))


def _facts(trained: learning.Trained, *, seed: int) -> dict[str, Any]:
    found = trained.found
    return {
        "params": {
            **found.params,
            "family": trained.family,
            "history": trained.history.window,
            "rounds": found.tried.rounds,
            "trials": found.trials,
            "trials_pruned": found.pruned,
            "tuning_stopped_by": found.stopped_by,
            "seed": seed,
        },
        "metrics": {
            "tuning_loss": found.tried.loss,
            **{f"tuning_loss_{name}": loss for name, loss in trained.losses.items()},
        },
        "history": trained.history.as_dict(),
        "parity_tolerance": trained.tolerance,
    }


def _tell(progress: learning.Progress) -> None:
    emit_event("progress", step="train-fault-classifier", **asdict(progress))


def evaluate(
    features: Path, trained: Path, *, champion: Champion, candidate: Path, report: Path
) -> None:
    """Judge on the holdout: parity, then accuracy in pairs; write the candidate's directory."""
    with step("evaluate"), learning.without_data_frames():
        rows = learning.read_rows(features / ROWS)
        holdout = learning.having(rows, split="holdout")
        truth = learning.class_indices(holdout, CLASSES)
        matrix = learning.feature_matrix(holdout, FEATURE_NAMES)
        network = learning.Network(trained / MODEL_FILE)
        with np.load(trained / NATIVE) as native:
            parity = learning.check_parity(
                network,
                native["inputs"],
                native["native"],
                tolerance=read_json(trained / TRAINED)["parity_tolerance"],
            )
        said, _ = network.predict(matrix)
        old = champion.directory()
        if old is None:
            rival = np.full_like(truth, np.bincount(truth, minlength=1).argmax())
        else:
            rival = as_classes(learning.Network(old / MODEL_FILE).predict(matrix)[0], old)
        groups = learning.values(holdout, "group").astype(str)
        paired = learning.compare(said == truth, rival == truth, groups=groups)
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
            "earlier": [] if old is None else _judged_by_earlier(rows, network, old),
        }
        report.mkdir(parents=True, exist_ok=True)
        write_json(report / EVALUATION, evaluation)
        write_json(report / PARITY, parity.as_dict())
        np.savez(report / ANSWERS, new_right=said == truth, old_right=rival == truth, groups=groups)
        card = learning.classifier_card(
            name=champion.name,
            features=COLUMNS,
            classes=CLASSES,
            training_data=read_json(features / FACTS)["training_data"],
            metrics={"accuracy": found["accuracy"], "holdout_rows": float(found["rows"])},
        )
        learning.write_model(candidate, network=trained / MODEL_FILE, card=card)


def _judged_by_earlier(rows: pa.Table, network: learning.Network, old: Path) -> list[Any]:
    """The candidate beside the champion on the rows that judged the champion, and still come."""
    earlier = learning.having(rows, origin="history", split="aside")
    both = [earlier, learning.having(rows, origin="recent")]
    matrix = np.concatenate([learning.feature_matrix(part, FEATURE_NAMES) for part in both])
    of_then, truth = matrix[: earlier.num_rows], learning.class_indices(earlier, CLASSES)
    return learning.judge_by_earlier(
        matrix,
        np.arange(len(matrix)) >= earlier.num_rows,
        groups=np.concatenate([learning.values(part, "group").astype(str) for part in both]),
        truth=truth,
        new_right=network.predict(of_then)[0] == truth,
        old_right=as_classes(learning.Network(old / MODEL_FILE).predict(of_then)[0], old) == truth,
        classes=CLASSES,
    )


def judge_segments(features: Path, report: Path, *, segmentation: str, out: Path) -> None:
    """Compare the candidate with the champion within each segment of one segmentation."""
    with step(f"judge-segments ({segmentation})"), learning.without_data_frames():
        holdout = learning.having(learning.read_rows(features / ROWS), split="holdout")
        masks = learning.Segmentation.parse(segmentation).masks(holdout)
        with np.load(report / ANSWERS) as answers:
            judged = learning.judge_segments(
                masks,
                new_right=answers["new_right"],
                old_right=answers["old_right"],
                groups=answers["groups"],
            )
        write_json(out, judged)


def gather_report(report: Path, segments: Sequence[Path], *, out: Path) -> None:
    """The whole evaluation in one directory: on the whole, by segment, and the parity."""
    with step("gather-report"):
        out.mkdir(parents=True, exist_ok=True)
        for name in (EVALUATION, PARITY):
            shutil.copyfile(report / name, out / name)
        write_json(out / SEGMENTS, [judged for path in segments for judged in read_json(path)])


def decide(report: Path) -> str:
    """`promote` or `reject`: the only thing that the pipeline branches on."""
    with step("decide"):
        found = decision_of(report)
        emit_event("decision", decision=found.decision, reasons=list(found.reasons))
        return found.decision


def decision_of(report: Path) -> learning.Decision:
    """What the gate says to a whole report."""
    return learning.decide(
        read_json(report / EVALUATION),
        read_json(report / PARITY),
        learning.Gate(),
        segments=read_json(report / SEGMENTS),
    )
