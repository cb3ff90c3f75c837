"""The steps of the training pipeline, as plain functions from files to files.

The components in `pipeline.py` call these and nothing else. Each reads what earlier steps wrote
into directories and writes its own; none holds state, so each can run in a process or a pod of its
own.
"""

from coalmine.apps.ev_battery.steps._common import Champion
from coalmine.apps.ev_battery.steps._data import (
    Present,
    generate_features,
    ingest_file,
    ingest_records,
    ingest_simulated,
    recreate_training_set,
    validate_data,
)
from coalmine.apps.ev_battery.steps._model import (
    budget,
    decide,
    evaluate,
    families,
    gather_report,
    judge_segments,
    train_fault_classifier,
)
from coalmine.apps.ev_battery.steps._release import (
    Story,
    notify_outcome,
    record_rejection,
    register_model,
    set_up_drift_monitoring,
)

__all__ = [
    "Champion",
    "Present",
    "Story",
    "budget",
    "decide",
    "evaluate",
    "families",
    "gather_report",
    "generate_features",
    "ingest_file",
    "ingest_records",
    "ingest_simulated",
    "judge_segments",
    "notify_outcome",
    "record_rejection",
    "recreate_training_set",
    "register_model",
    "set_up_drift_monitoring",
    "train_fault_classifier",
    "validate_data",
]
