"""From telemetry to the table a model is learned from: ingest, validate, generate features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coalmine.apps.ev_battery._world import CLASSES
from coalmine.apps.ev_battery.steps._common import (
    FACTS,
    FEATURE_NAMES,
    HISTORY,
    RECENT,
    ROWS,
    SOURCE,
    Champion,
    as_classes,
    read_json,
    write_json,
)
from coalmine.modeldir import MODEL_FILE, load_card
from coalmine.retraining import (
    DataInvalid,
    DatasetChanged,
    DatasetMissing,
    NotEnoughData,
    describe_training_set,
    ensure_stored,
    file_digest,
    learning,
    step,
)
from coalmine_transformers.battery import BatteryTransformer

if TYPE_CHECKING:
    import pyarrow as pa

    from coalmine.apps.ev_battery import Telemetry

#: Windows that the first model learns from, and the least that judge it.
HISTORY_WINDOWS = 20_000
RECENT_WINDOWS = 6_000
#: Rows of production that a new model learns from and is judged by, the newest ones.
MAX_RECENT_ROWS = 50_000
#: Rows that it learns from besides, of those that made the champion.
MAX_HISTORY_ROWS = 20_000
#: Of a file of telemetry, the last part in time stands for the present.
RECENT_SHARE = 0.3
#: The reference must span `learning.MIN_WINDOWS` windows; some more make its thresholds steadier.
_SPARE = 1.1


@dataclass(frozen=True, slots=True)
class Present:
    """Which records of the champion show the world as it is: record time in [since, until)."""

    log_uri: str
    version: str
    since: float
    until: float
    labels: int | None = None
    """Offset of the newest label that counts; None: of all that are there when it is read."""


def ingest_simulated(out: Path, *, seed: int, window_rows: int) -> None:
    """A year of history and the recent stream of the simulated fleet."""
    from coalmine.apps.ev_battery import FleetConfig, reference_stream, training_history

    with step("ingest-telemetry"), learning.without_data_frames():
        _note_source(out, {"kind": "simulated", "seed": seed, "window_rows": window_rows})
        config = FleetConfig(seed=seed)
        recent = max(RECENT_WINDOWS, round(_SPARE * learning.MIN_WINDOWS * window_rows))
        _write_telemetry(out, training_history(config, HISTORY_WINDOWS), HISTORY)
        _write_telemetry(out, reference_stream(config, recent), RECENT)


def ingest_file(out: Path, *, telemetry: Path) -> None:
    """History and recent stream of a file of real telemetry: its past, and its last part."""
    from coalmine.apps.ev_battery import read_telemetry

    with step("ingest-telemetry"), learning.without_data_frames():
        digest = file_digest(telemetry)
        source = {"kind": "file", "path": str(telemetry.absolute()), "digest": digest}
        _note_source(out, source)
        everything = read_telemetry(telemetry)
        # An upload is recent as a whole: its windows must not judge what its windows taught.
        uploads, upload = np.unique(everything.upload, return_inverse=True)
        end = np.full(len(uploads), -np.inf)
        np.maximum.at(end, upload, everything.day)
        recent = end[upload] > np.quantile(end, 1 - RECENT_SHARE)
        _write_telemetry(out, everything.select(~recent), HISTORY)
        _write_telemetry(out, everything.select(recent), RECENT)


def ingest_records(out: Path, *, present: Present) -> None:
    """What the champion has answered since the onset, with the labels that have come.

    Records and labels that have expired from the log are read from the archive that its URL names.
    """
    from coalmine.records import archive_of, open_log
    from coalmine.retraining import Window, recent_rows

    with step("ingest-telemetry"), learning.without_data_frames():
        log = open_log(present.log_uri)
        try:
            # What is labelled from here on is for another run: this one can be made again.
            labels = log.end_label() if present.labels is None else present.labels
            window = Window(present.version, present.since, present.until, labels)
            rows = recent_rows(
                log,
                window,
                features=FEATURE_NAMES,
                limit=MAX_RECENT_ROWS,
                archive=archive_of(present.log_uri),
            )
        finally:
            log.close()
        _note_source(out, {"kind": "records", **asdict(replace(present, labels=labels))})
        learning.write_rows(rows, out / RECENT)


def validate_data(telemetry: Path, report: Path) -> None:
    """Check what was ingested, and write the report; DataInvalid carries it if a check fails."""
    with step("validate-data"):
        texts: list[str] = []
        try:
            for name in (HISTORY, RECENT):
                if (telemetry / name).exists():
                    texts.append(_validate(telemetry / name))
        except DataInvalid as error:
            texts.append(error.report)
            raise
        finally:
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text("\n".join(texts), encoding="utf-8")


def generate_features(telemetry: Path, out: Path, *, champion: Champion, data: Path) -> None:
    """The table to learn from, split, and stored under its content.

    Raw windows go through the transformer that serves; records hold its features already.
    """
    with step("generate-features"), learning.without_data_frames():
        directory = champion.directory()
        parent = None if directory is None else _training_data(directory, data)
        rows = _rows(telemetry, parent=parent, data=data)
        if directory is not None:
            _check_labels(rows, directory)
        digest = learning.store_training_set(rows, data=data)
        describe_training_set(
            digest, data=data, recipe=_RECIPE, source=read_json(telemetry / SOURCE), parent=parent
        )
        out.mkdir(parents=True, exist_ok=True)
        learning.write_rows(rows, out / ROWS)
        facts = {
            "training_data": digest,
            "source": read_json(telemetry / SOURCE)["kind"],
            "history_rows": learning.having(rows, origin="history").num_rows,
            **{
                f"recent_{split}_rows": learning.having(rows, origin="recent", split=split).num_rows
                for split in ("train", "tune", "holdout", "aside", "unlabelled")
            },
        }
        write_json(out / FACTS, facts)


def recreate_training_set(
    source: Mapping[str, Any], *, parent: str | None, data: Path, scratch: Path
) -> pa.Table:
    """The labelled rows of a training set, made again; the recipe that its manifest names."""
    given = {key: value for key, value in source.items() if key != "kind"}
    if source["kind"] == "records":
        ingest_records(scratch, present=Present(**given))
    elif source["kind"] == "simulated":
        ingest_simulated(scratch, **given)
    else:
        _check_file(Path(given["path"]), given["digest"])
        ingest_file(scratch, telemetry=Path(given["path"]))
    return learning.labelled_rows(_rows(scratch, parent=parent, data=data))


#: Where the manifest of a training set finds the function above.
_RECIPE = "coalmine.apps.ev_battery.steps:recreate_training_set"


def _note_source(out: Path, source: Mapping[str, Any]) -> None:
    """What the rows are read from, so that they can be read again."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / SOURCE, source)


def _check_file(path: Path, digest: str) -> None:
    if not path.exists():
        raise DatasetMissing(f"the telemetry that it was made from is gone: {path}")
    if file_digest(path) != digest:
        raise DatasetChanged(f"{path} is another file than the one that it was made from")


def _rows(telemetry: Path, *, parent: str | None, data: Path) -> pa.Table:
    """The table to learn from: what is ingested, and what made the champion."""
    import pyarrow as pa

    if parent is None:
        parts = _first_rows(telemetry)
    else:
        present = learning.leave_out_unknown(learning.read_rows(telemetry / RECENT), CLASSES)
        recent = learning.split_recent(present)
        parts = [_known_rows(parent, data), learning.with_texts(recent, origin="recent")]
    columns = [*FEATURE_NAMES, *learning.META_COLUMNS]
    return pa.concat_tables([part.select(columns) for part in parts]).combine_chunks()


def _write_telemetry(out: Path, telemetry: Telemetry, name: str) -> None:
    from coalmine.apps.ev_battery import write_telemetry

    out.mkdir(parents=True, exist_ok=True)
    write_telemetry(out / name, telemetry)


def _validate(path: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = learning.Expect
    if "cell_voltage_t00_c0" not in pq.read_schema(path).names:
        rows = learning.read_rows(path)
        expected = {name: number(max_missing=0.2) for name in FEATURE_NAMES}
        expected[learning.TRUE_LABEL] = number(kind="text", max_missing=0.99)
        return learning.validate_table(rows, expected, title="Records since the onset")
    from coalmine.apps.ev_battery import Telemetry

    telemetry = Telemetry.from_table(pq.read_table(path))
    summary: dict[str, Any] = {"label": telemetry.label_names}
    expected = {"label": number(kind="text", values=CLASSES)}
    for name, (lowest, highest) in _READING_RANGES.items():
        flat = telemetry.raw[name].reshape(len(telemetry), -1)
        summary |= {f"{name}_lowest": flat.min(axis=1), f"{name}_highest": flat.max(axis=1)}
        reading = number(lowest=lowest, highest=highest, max_missing=0.05, max_outside=0.005)
        expected |= {f"{name}_lowest": reading, f"{name}_highest": reading}
    return learning.validate_table(
        pa.table(summary), expected, title=f"Telemetry, {path.stem} part"
    )


#: What a working sensor can read; a share of windows outside says that a unit is wrong.
_READING_RANGES = {
    "cell_voltage": (0.0, 5.5),
    "temperature": (-60.0, 150.0),
    "current": (-2000.0, 2000.0),
    "pack_voltage": (0.0, 1000.0),
    "coolant_temperature": (-60.0, 150.0),
    "soc": (-0.1, 1.1),
}


def _first_rows(telemetry: Path) -> list[pa.Table]:
    from coalmine.apps.ev_battery import read_telemetry

    past, now = read_telemetry(telemetry / HISTORY), read_telemetry(telemetry / RECENT)
    history, recent = learning.split_by_vehicle(
        _features_of(past), _features_of(now), history_of=past.vehicle, recent_of=now.vehicle
    )
    return [
        learning.with_texts(history, origin="history"),
        learning.with_texts(recent, origin="recent"),
    ]


def _features_of(telemetry: Telemetry) -> pa.Table:
    import pyarrow as pa

    matrix = BatteryTransformer().preprocess(telemetry.raw)["features"]
    uploads = zip(telemetry.vehicle, telemetry.upload, strict=True)
    return pa.table(
        {
            **{name: matrix[:, index] for index, name in enumerate(FEATURE_NAMES)},
            "true_label": pa.array(telemetry.label_names, pa.string()),
            "time": _arrivals(telemetry) * 86_400.0,
            "group": pa.array([f"{vehicle}-{upload}" for vehicle, upload in uploads], pa.string()),
        }
    )


def _arrivals(telemetry: Telemetry) -> NDArray[np.float64]:
    """The day on which each window arrived: all of an upload come together, when it ends.

    By their own times the windows of many vehicles would interleave, and look far steadier to the
    monitors than traffic, which is one upload after another.
    """
    uploads, upload = np.unique(telemetry.upload, return_inverse=True)
    last = np.full(len(uploads), -np.inf)
    np.maximum.at(last, upload, telemetry.day)
    return np.asarray(last[upload], dtype=np.float64)


def _check_labels(rows: pa.Table, champion: Path) -> None:
    """Labels that contradict all that the champion is sure of are for a person to look at."""
    network = learning.Network(champion / MODEL_FILE)

    def answered(origin: str) -> learning.Answered:
        found = learning.having(rows, origin=origin)
        matrix = learning.feature_matrix(found, FEATURE_NAMES)
        said, shares = network.predict(matrix)
        return learning.Answered(
            truth=learning.class_indices(found, CLASSES),
            said=as_classes(said, champion),
            probability=shares.max(axis=1),
            features=matrix,
            groups=learning.values(found, "group"),
        )

    learning.check_labels(answered("recent"), taught=answered("history"), classes=CLASSES)


def _training_data(directory: Path, data: Path) -> str:
    """The digest of what the champion was made from."""
    digest = load_card(directory).training_data
    if digest is None:
        raise NotEnoughData(f"the card in {directory} names no training set")
    try:
        ensure_stored(digest, data=data)
    except (DatasetMissing, DatasetChanged) as error:
        raise NotEnoughData(
            f"the champion's training set, {digest}, is not in {data}: {error}"
        ) from error
    return digest


def _known_rows(digest: str, data: Path) -> pa.Table:
    """What the champion was made from, labelled and complete: the data that may still hold.

    What judged the champion is set aside: it judges the candidate too, and is history for the next.
    """
    rows = learning.read_rows(ensure_stored(digest, data=data))
    if rows.num_rows > MAX_HISTORY_ROWS:  # of all seasons, not of the latest alone
        kept = np.random.default_rng(0).choice(rows.num_rows, MAX_HISTORY_ROWS, replace=False)
        rows = rows.take(np.sort(kept))
    split = np.where(learning.values(rows, "split") == "holdout", "aside", "train")
    return learning.with_texts(rows, origin="history", split=split)
