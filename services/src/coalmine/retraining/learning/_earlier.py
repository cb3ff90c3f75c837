"""Earlier labels as a second judge: those that judged the champion, where the inputs are the same.

The holdout has the labels that the candidate was trained on, with the same mistakes. Where inputs
lie as they lay when the champion was judged, the labels of then say what is true there; a candidate
that is worse on them has learned either a change of the world that shows in no input, or labels
that are wrong, and no data tell the one from the other: that is for a person to say.

Where the inputs have moved, as with another chemistry, the labels of then say nothing, so the rows
of then that the present does not resemble are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coalmine.retraining.learning._elsewhere import density_ratio
from coalmine.retraining.learning._segments import judge_segments

#: The present must be a quarter as dense at a row of then, or more. (With half, too little was left
#: to see a small wrong region by in one of four simulated fleets; neither refused a real drift.)
_ALIKE = 0.25
#: Uploads below which a part says nothing.
_MIN_GROUPS = 20
WHOLE = "all"


def judge_by_earlier(
    features: np.ndarray,
    is_present: np.ndarray,
    *,
    groups: np.ndarray,
    truth: np.ndarray,
    new_right: np.ndarray,
    old_right: np.ndarray,
    classes: tuple[str, ...],
) -> list[dict[str, Any]]:
    """The candidate beside the champion on earlier rows that still come: all, and of each class.

    `features` float32 [rows, features], `is_present` bool [rows] and `groups` [rows] are of the
    present's rows and of the earlier ones; `truth` (class indices), `new_right` and `old_right`
    (bool) of the earlier ones alone, in their order. Parts of few uploads are left out.
    """
    of_then = groups[~is_present]
    if not is_present.any() or len(np.unique(of_then)) < _MIN_GROUPS:
        return []
    ratio = density_ratio(features, is_present, groups=groups)[~is_present]
    alike = ratio >= _ALIKE
    masks = {WHOLE: alike}
    masks |= {f"class {name}": alike & (truth == index) for index, name in enumerate(classes)}
    return judge_segments(
        {
            name: mask
            for name, mask in masks.items()
            if len(np.unique(of_then[mask])) >= _MIN_GROUPS
        },
        new_right=new_right,
        old_right=old_right,
        groups=of_then,
    )
