"""What a serving benchmark is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coalmine_loadtests.serving._machine import Cores

__all__ = ["ServingBenchOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingBenchOptions:
    """Everything has a default: `coalmine bench serving` alone measures all."""

    peers: tuple[str, ...] = ()
    """Servers by name, or products by the part before the dash; none: all."""

    cells: tuple[str, ...] = ()
    """Cells by name, or all of a model by its name; none: all."""

    seconds: float = 2.0
    """Of one measurement. wrk knows whole seconds only, so a fraction is rounded up there."""

    repeats: int = 2
    """Rounds over all servers, of which the median is reported."""

    output: Path = Path("bench-serving.json")
    """Written after every start, so that nothing measured is lost."""

    resume: bool = False
    """Go on with what `output` holds, and measure only what is missing there."""

    environments: Path | None = None
    """Where the peers' environments are; None: COALMINE_BENCH_DIR, else `.bench/`."""

    soak: int = 1_000_000
    """Requests after which the memory of Coalmine is compared; 0: not at all."""

    cores: Cores = Cores()
