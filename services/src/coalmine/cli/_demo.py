"""`coalmine demo`: the whole loop shown."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


class _Scenario(StrEnum):
    CHEMISTRY = "chemistry"
    COLD = "cold"
    SENSOR_FAULT = "sensor-fault"
    BAD_CANDIDATE = "bad-candidate"
    NONE = "none"


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog="Example:  coalmine demo --scenario cold --seed 3 --report out")(demo)


def demo(
    scenario: Annotated[
        _Scenario, typer.Option(help="What happens in the world")
    ] = _Scenario.CHEMISTRY,
    seed: Annotated[int, typer.Option(help="Seed of the fleet and the training")] = 7,
    report: Annotated[Path, typer.Option(help="Directory of the report")] = Path("coalmine-report"),
    headless: Annotated[
        bool, typer.Option("--headless", help="JSON lines instead of the live view")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(help="First of ten ports in a row", show_default="free ones", max=65526),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="State directory", show_default="a temporary one")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Real telemetry to train the first model with", exists=True)
    ] = None,
    keep_state: Annotated[
        bool, typer.Option("--keep-state", help="Keep the temporary state directory")
    ] = False,
) -> None:
    """Run the whole loop once, unattended: serve, drift, alert, retrain, canary, promote.

    Exits 0 only if the loop did what the scenario expects.
    """
    from coalmine.demo import DemoOptions, Scenario, run_demo

    report.mkdir(parents=True, exist_ok=True)  # what cannot be written is said now, not at the end
    options = DemoOptions(
        scenario=Scenario(scenario.value),
        seed=seed,
        report=report,
        headless=headless,
        port=port,
        state=state,
        data=data,
        keep_state=keep_state,
    )
    raise typer.Exit(run_demo(options))
