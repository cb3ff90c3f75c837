"""What can happen to the fleet: the conditions of a vehicle, and the demo's worlds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from coalmine.protocol import Array

#: The service file of this application, at the scale of a laptop and of the demo.
SERVICE_FILE = Path(__file__).with_name("coalmine.yaml")

#: What the model tells apart; the model's label is an index into this.
CLASSES = (
    "normal",
    "internal_short",
    "cooling_failure",
    "sensor_bias",
    "overcharge",
    "capacity_fade",
)

#: Share of vehicles in each condition when nothing has happened.
USUAL_MIX: Mapping[str, float] = {name: 0.70 if name == "normal" else 0.06 for name in CLASSES}


@dataclass(frozen=True, slots=True)
class World:
    """What the fleet lives in; the defaults are the world that the first model was trained on."""

    chemistry_share: float = 0.0
    """Share of vehicles with the new cell chemistry (iron phosphate instead of nickel)."""

    ambient_offset_c: float = 0.0
    """Added to the air temperature of every vehicle, in kelvin."""

    pack_voltage_gain: float = 1.0
    """Gain of every vehicle's pack voltage sensor; 1 is a sensor in calibration."""

    mix: Mapping[str, float] = field(default_factory=lambda: USUAL_MIX)
    """Share of vehicles in each of CLASSES; sums to one."""

    def __post_init__(self) -> None:
        if not 0 <= self.chemistry_share <= 1:
            raise ValueError(f"chemistry_share: {self.chemistry_share} is not a share, 0 to 1")
        if set(self.mix) != set(CLASSES) or abs(sum(self.mix.values()) - 1) > 1e-6:
            raise ValueError(f"mix: one share for each of {', '.join(CLASSES)}, summing to one")

    def class_shares(self) -> Array:
        """The shares of `mix` in the order of CLASSES, float64."""
        return np.array([self.mix[name] for name in CLASSES])


#: The world after the event of each of the demo's scenarios; before it, `World()`.
SCENARIO_WORLDS: Mapping[str, World] = {
    "chemistry": World(chemistry_share=0.5),
    "cold": World(ambient_offset_c=-22.0),
    "sensor-fault": World(pack_voltage_gain=1.03),
    "bad-candidate": World(),
    "none": World(),
}

#: Label shift: three times the cell faults, as after a bad batch of cells. No scenario of the demo.
MIX_WORLD = World(
    mix={
        "normal": 0.46,
        "internal_short": 0.18,
        "cooling_failure": 0.06,
        "sensor_bias": 0.06,
        "overcharge": 0.06,
        "capacity_fade": 0.18,
    }
)
