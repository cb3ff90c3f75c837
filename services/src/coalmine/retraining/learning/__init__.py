"""Learning a classifier and judging it: plain functions over a table of features.

An application's steps (`coalmine.apps.ev_battery.steps`) bring the table; what is here knows
nothing of batteries, of Kubeflow or of MLflow. The heavy libraries are imported by the functions
that use them.
"""

from coalmine.retraining.learning._decide import Decision, Gate, decide
from coalmine.retraining.learning._earlier import judge_by_earlier
from coalmine.retraining.learning._evaluate import Paired, classification_report, compare
from coalmine.retraining.learning._family import FamilyName, Model
from coalmine.retraining.learning._history import WINDOWS, History
from coalmine.retraining.learning._imports import hidden, without_data_frames
from coalmine.retraining.learning._labels import (
    Answered,
    LabelLimits,
    check_labels,
    leave_out_unknown,
)
from coalmine.retraining.learning._onnx import (
    Network,
    Parity,
    check_parity,
    classifier_card,
    export_onnx,
    parity_inputs,
    write_model,
)
from coalmine.retraining.learning._reference import MIN_WINDOWS, build_reference
from coalmine.retraining.learning._rows import (
    META_COLUMNS,
    TRUE_LABEL,
    class_indices,
    feature_matrix,
    having,
    labelled_rows,
    read_rows,
    store_training_set,
    training_set_path,
    values,
    with_texts,
    write_rows,
)
from coalmine.retraining.learning._search import Budget, Progress
from coalmine.retraining.learning._segments import BY_CLASS, Segmentation, holm, judge_segments
from coalmine.retraining.learning._space import Dimension, Space
from coalmine.retraining.learning._splits import split_by_vehicle, split_recent
from coalmine.retraining.learning._train import (
    FAMILIES,
    CrossFitted,
    Trained,
    installed_families,
    make_family,
    space_of,
    train_classifier,
    try_parameters,
)
from coalmine.retraining.learning._validate import Expect, validate_table

__all__ = [
    "BY_CLASS",
    "FAMILIES",
    "META_COLUMNS",
    "MIN_WINDOWS",
    "TRUE_LABEL",
    "WINDOWS",
    "Answered",
    "Budget",
    "CrossFitted",
    "Decision",
    "Dimension",
    "Expect",
    "FamilyName",
    "Gate",
    "History",
    "LabelLimits",
    "Model",
    "Network",
    "Paired",
    "Parity",
    "Progress",
    "Segmentation",
    "Space",
    "Trained",
    "build_reference",
    "check_labels",
    "check_parity",
    "class_indices",
    "classification_report",
    "classifier_card",
    "compare",
    "decide",
    "export_onnx",
    "feature_matrix",
    "having",
    "hidden",
    "holm",
    "installed_families",
    "judge_by_earlier",
    "judge_segments",
    "labelled_rows",
    "leave_out_unknown",
    "make_family",
    "parity_inputs",
    "read_rows",
    "space_of",
    "split_by_vehicle",
    "split_recent",
    "store_training_set",
    "train_classifier",
    "training_set_path",
    "try_parameters",
    "validate_table",
    "values",
    "with_texts",
    "without_data_frames",
    "write_model",
    "write_rows",
]
