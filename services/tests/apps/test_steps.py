"""The order of the rows that the monitors' reference is made of."""

from __future__ import annotations

import numpy as np

from coalmine.apps.ev_battery import FleetConfig, reference_stream
from coalmine.apps.ev_battery.steps._data import _features_of


def test_uploads_stay_whole_in_the_order_of_time_as_in_live_traffic() -> None:
    rows = _features_of(reference_stream(FleetConfig(vehicles=50, seed=3), 800))
    group = rows.sort_by("time").column("group").to_numpy(zero_copy_only=False)
    changes = int((group[1:] != group[:-1]).sum())
    assert changes == len(np.unique(group)) - 1
