"""The reference application's champion and what it has answered, for tests of the real steps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coalmine.apps.ev_battery import CLASSES, Fleet, FleetConfig, steps, write_telemetry
from coalmine.modeldir import load_card, model_digest
from coalmine.records import BatchId, InferenceRecord, Label, open_log, record_batch
from coalmine.retraining import find_training_set, learning
from coalmine_transformers.battery import BatteryTransformer

ONSET = 1_700_000_000.0


@dataclass(frozen=True)
class Stage:
    """A champion, what it has answered, and the truth of it."""

    state: Path
    champion: steps.Champion
    features: np.ndarray
    truth: np.ndarray
    requests: list[str]
    rows: list[int]
    fresh_features: np.ndarray
    """Of uploads that came later, and were never labelled."""

    fresh_truth: np.ndarray


def candidate(
    state: Path, work: Path, champion: steps.Champion, ingested: Path
) -> tuple[str, Path]:
    """The pipeline's steps, from what is ingested to the decision and the candidate."""
    steps.validate_data(ingested, work / "report.md")
    steps.generate_features(ingested, work / "features", champion=champion, data=state / "data")
    steps.train_fault_classifier(
        work / "features",
        work / "trained",
        budget=learning.Budget(trials=1, seconds=30.0, seed=3),
        candidates=("lightgbm",),
    )
    steps.evaluate(
        work / "features",
        work / "trained",
        champion=champion,
        candidate=work / "candidate",
        report=work / "evaluation",
    )
    segments = work / "segments.json"
    steps.judge_segments(
        work / "features", work / "evaluation", segmentation=learning.BY_CLASS, out=segments
    )
    steps.gather_report(work / "evaluation", [segments], out=work / "report")
    return steps.decide(work / "report"), work / "candidate"


def make_stage(state: Path, *, history: int = 900, uploads: int = 250) -> Stage:
    """Train a first model under `state` on some uploads, and let it answer others."""
    fleet = Fleet(FleetConfig(seed=5))
    write_telemetry(state / "fleet.parquet", fleet.uploads(history))
    steps.ingest_file(state / "first", telemetry=state / "fleet.parquet")
    nobody = steps.Champion("", str(state / "models"), "", "", "ev-battery")
    decision, directory = candidate(state, state / "first-work", nobody, state / "first")
    assert decision == "promote"
    (state / "models").mkdir()
    directory.rename(state / "models" / "1")

    network = learning.Network(state / "models" / "1" / "model.onnx")
    records, truth, features, requests, rows = [], [], [], [], []
    for number, upload in enumerate(fleet.uploads(uploads).each_upload()):
        matrix = BatteryTransformer().preprocess(upload.raw)["features"]
        said, shares = network.predict(matrix)
        records.append(
            InferenceRecord(
                request_id=f"q{number}",
                time=ONSET + number,
                protocol="v2",
                latency_us=500,
                inputs={"features": matrix},
                outputs={"label": said, "probabilities": shares},
            )
        )
        features.append(matrix)
        truth.append(upload.label)
        requests += [f"q{number}"] * len(matrix)
        rows += range(len(matrix))
    card = load_card(state / "models" / "1")
    batch = record_batch(records, card=card, model_version="1", arm="stable")
    log = open_log(f"sqlite:///{state / 'records.db'}")
    log.append(batch, batch_id=BatchId("server", 1, batch.num_rows))
    log.close()
    champion = steps.Champion("1", str(state / "models"), "", "", "ev-battery")
    fresh = fleet.uploads(uploads)
    return Stage(
        *(state, champion, np.concatenate(features), np.concatenate(truth), requests, rows),
        fresh_features=BatteryTransformer().preprocess(fresh.raw)["features"],
        fresh_truth=fresh.label,
    )


def retrain(stage: Stage, work: Path, labels: list[str]) -> tuple[str, Path]:
    """Send a label file, and run the steps on what the log has then."""
    log = open_log(f"sqlite:///{stage.state / 'records.db'}")
    known = zip(stage.requests, labels, stage.rows, strict=True)
    log.put_labels([Label(request, label, ONSET + 500, row) for request, label, row in known])
    log.close()
    present = steps.Present(
        f"sqlite:///{stage.state / 'records.db'}", version="1", since=ONSET, until=ONSET + 1e6
    )
    steps.ingest_records(work / "in", present=present)
    return candidate(stage.state, work, stage.champion, work / "in")


def digests(state: Path) -> None:
    """Make a first model and retrain it, and write what both are known by to `digests.json`."""
    state.mkdir(parents=True)
    stage = make_stage(state, history=400, uploads=150)
    found = {"first": _known_by(state, state / "first-work", state / "models" / "1")}
    labels = [CLASSES[index] for index in stage.truth]
    decision, directory = retrain(stage, state / "again", labels)
    found["retrained"] = {**_known_by(state, state / "again", directory), "decision": decision}
    (state / "digests.json").write_text(json.dumps(found), encoding="utf-8")


def _known_by(state: Path, work: Path, candidate: Path) -> dict[str, Any]:
    """Of a model with its reference, of the data with its manifest, and of how it was judged."""
    steps.set_up_drift_monitoring(
        work / "features", work / "trained", candidate=candidate, window_rows=20, out=work / "whole"
    )
    digest = json.loads((work / "features" / "facts.json").read_text())["training_data"]
    manifest = find_training_set(digest, data=state / "data")
    return {
        "model": model_digest(work / "whole"),
        "data": digest,
        "summary": manifest["summary"],
        "parent": manifest["parent"],
        "judged": {
            path.name: path.read_text() for path in sorted((work / "report").glob("*.json"))
        },
    }
