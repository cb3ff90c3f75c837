"""What a person asks of the demo."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

__all__ = ["DemoOptions", "Scenario"]


class Scenario(StrEnum):
    """What happens in the world once the service runs."""

    CHEMISTRY = "chemistry"
    COLD = "cold"
    SENSOR_FAULT = "sensor-fault"
    BAD_CANDIDATE = "bad-candidate"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The settings of one run of the demo."""

    scenario: Scenario = Scenario.CHEMISTRY

    seed: int = 7
    """Of the fleet, the labels' delays and the training; timing stays the machine's own."""

    report: Path = Path("coalmine-report")
    """Directory for report.json, report.html and the pictures; made if missing."""

    headless: bool = False
    """JSON lines on stdout instead of the live view."""

    port: int | None = None
    """First of the ten ports of the stack; None: ten free ones in a row are found."""

    state: Path | None = None
    """The stack's state directory; None: a temporary one, removed unless the run fails."""

    data: Path | None = None
    """CSV or Parquet of real telemetry to train the first model on; None: the simulator's."""

    keep_state: bool = False
    """Keep the temporary state directory even when all went well."""
