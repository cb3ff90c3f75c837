"""Who teaches, who tunes and who judges: split by time and by vehicle, never leaking.

What judges a model must be newer than all that taught it, and of other uploads; of other vehicles
too, where the rows say whose they are. A row that fits nowhere is set `aside`: it teaches nothing
in this run, and is history in the next.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from coalmine.retraining._errors import NotEnoughData
from coalmine.retraining.learning._rows import is_labelled, values, with_texts

if TYPE_CHECKING:
    import pyarrow as pa

#: Of the labelled recent rows, by time: the first part trains, then tuning, the latest part judges.
TUNE_SHARE = 0.15
HOLDOUT_SHARE = 0.30
#: Of the vehicles, where each belongs to one part: a few more, since they judge only when recent.
JUDGE_SHARE = 0.40


def split_recent(rows: pa.Table) -> pa.Table:
    """Recent rows in order of time, with `split`: whole groups, unlabelled rows apart.

    A group belongs where its first labelled row belongs, so that no group straddles two splits; its
    rows that are newer than the first of the next split are set aside.
    """
    rows = rows.sort_by("time")
    labelled = is_labelled(rows)
    if not labelled.any():
        raise NotEnoughData("none of the recent rows has a label")
    _, group = np.unique(values(rows, "group"), return_inverse=True)
    present, first = np.unique(group[labelled], return_index=True)
    in_time = present[np.argsort(first)]
    sizes = np.bincount(group[labelled], minlength=group.max() + 1)[in_time]
    position = np.zeros(group.max() + 1)
    position[in_time] = (np.cumsum(sizes) - sizes) / sizes.sum()
    part = np.select(
        [position >= 1 - HOLDOUT_SHARE, position >= 1 - HOLDOUT_SHARE - TUNE_SHARE],
        ["holdout", "tune"],
        default="train",
    )
    split = np.where(labelled, part[group], "unlabelled").astype(object)
    _keep_the_order(split, values(rows, "time"))
    return with_texts(rows, split=split)


def split_by_vehicle(
    history: pa.Table, recent: pa.Table, *, history_of: np.ndarray, recent_of: np.ndarray
) -> tuple[pa.Table, pa.Table]:
    """History and recent rows with `split`, where it is known whose row each is.

    Each vehicle is of one part for good, by the hash of its name: those that judge do so with their
    recent rows, those that train or tune do so with their history.
    """
    part = _parts(np.unique(np.concatenate([history_of.astype(str), recent_of.astype(str)])))
    past = np.array([part[name] for name in history_of.astype(str)], dtype=object)
    past[past == "holdout"] = "aside"
    judges = np.array([part[name] == "holdout" for name in recent_of.astype(str)], dtype=bool)
    now = np.where(judges, "holdout", "aside").astype(object)
    if judges.any():
        since = values(recent, "time")[judges].min()
        past[(values(history, "time") > since)] = "aside"
    for name, found in (("train", past), ("tune", past), ("holdout", now)):
        if not (found == name).any():
            raise NotEnoughData(
                f"{len(part)} vehicles leave no row to {name}; some must train, some tune and "
                "others judge"
            )
    return with_texts(history, split=past), with_texts(recent, split=now)


def _parts(vehicles: np.ndarray) -> dict[str, str]:
    """The part of each vehicle; the same in every run, whoever else is there, but for the edges."""
    ordered = sorted(vehicles, key=lambda name: hashlib.blake2b(name.encode()).digest())
    judges = max(1, round(JUDGE_SHARE * len(ordered)))
    tuners = max(1, round(TUNE_SHARE * (1 - JUDGE_SHARE) * len(ordered)))
    split = ["holdout"] * judges + ["tune"] * tuners
    split += ["train"] * max(0, len(ordered) - len(split))
    return dict(zip(ordered, split, strict=False))


def _keep_the_order(split: np.ndarray, time: np.ndarray) -> None:
    """Set aside what teaches though it is newer than the first row of what checks it."""
    for checks, taught in (("holdout", ("train", "tune")), ("tune", ("train",))):
        if (split == checks).any():
            first = time[split == checks].min()
            split[np.isin(split, taught) & (time > first)] = "aside"
