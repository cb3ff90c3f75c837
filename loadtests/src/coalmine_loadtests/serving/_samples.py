"""What was measured: every sample is kept, medians are made when they are shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from coalmine_loadtests._files import write_whole
from coalmine_loadtests.serving._errors import ServingBenchError

__all__ = ["Measured", "Results", "Sample", "Start"]

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One cell of one server in one round."""

    server: str
    cell: str
    round: int
    requests_per_s: float = 0.0
    rows_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_us: float = 0.0
    """Of a request: user and system time of the server's processes over the requests."""

    errors: int = 0
    told: str = ""
    """Why it was not measured, or what the errors were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start of one server with one model."""

    server: str
    model: str
    round: int
    ready_s: float
    """From the start of the process to its first 200 on the path for readiness."""

    idle_rss_mb: float
    """RSS summed over its processes, once it is ready and before it is asked anything."""

    idle_pss_mb: float
    """The same with memory that several processes share counted once."""

    loaded_pss_mb: float
    """After the load."""

    account: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians over the rounds; `spread` is the range of `rows_per_s` over its median."""

    requests_per_s: float
    rows_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    errors: int
    spread: float


@dataclass(slots=True)
class Results:
    """All of one run, as it is written; a run that is taken up again adds to it."""

    machine: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Servers that could not be installed or started, and why."""

    starts: list[Start] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    soak: dict[str, Any] | None = None

    def has(self, server: str, cell: str, round: int) -> bool:
        """Whether this was measured already."""
        return any(s.server == server and s.cell == cell and s.round == round for s in self.samples)

    def measured(self, server: str, cell: str) -> Measured | None:
        """The medians; None where no round was measured without an error."""
        of_cell = [s for s in self.samples if s.server == server and s.cell == cell]
        samples = [s for s in of_cell if s.rows_per_s > 0]
        if not samples:
            return None
        rates = [s.rows_per_s for s in samples]
        return Measured(
            requests_per_s=median(s.requests_per_s for s in samples),
            rows_per_s=median(rates),
            p50_ms=median(s.p50_ms for s in samples),
            p99_ms=median(s.p99_ms for s in samples),
            cpu_us=median(s.cpu_us for s in samples),
            errors=sum(s.errors for s in of_cell),
            spread=(max(rates) - min(rates)) / median(rates),
        )

    def of_server(self, server: str) -> list[Start]:
        """Its starts."""
        return [start for start in self.starts if start.server == server]

    def servers(self) -> list[str]:
        """Names of all that were asked for, in the order of the report."""
        return list(self.titles)

    def write(self, path: Path) -> None:
        """Write as JSON; the file is whole at any time."""
        content = {"format": _FORMAT, **asdict(self)}
        write_whole(path, orjson.dumps(content, option=orjson.OPT_INDENT_2))

    @classmethod
    def read(cls, path: Path) -> Results:
        """What `write` wrote; `ServingBenchError` if it is something else."""
        try:
            content = orjson.loads(path.read_bytes())
            if content.pop("format") != _FORMAT:
                raise ValueError("of another format")
            content["starts"] = [Start(**each) for each in content["starts"]]
            content["samples"] = [Sample(**each) for each in content["samples"]]
            return cls(**content)
        except OSError as error:
            raise ServingBenchError(f"{path}: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ServingBenchError(f"{path} is no result of this benchmark: {error}") from error
