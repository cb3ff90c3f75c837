"""What one run of the pipeline is told."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

RunKind = Literal["bootstrap", "retrain"]


@dataclass(frozen=True, slots=True)
class RunParameters:
    """The parameters that a pipeline function may take, by name; it is given those that it names.

    They are strings, numbers and lists of strings only, so that the compiled pipeline takes the
    same ones.
    """

    run_id: str
    kind: RunKind
    """`bootstrap`: there is no champion yet."""

    reason: str
    model_name: str
    seed: int
    trials: int
    tuning_seconds: float
    window_rows: int
    """Of the drift monitor; the reference must span many windows."""

    tracking_uri: str
    artifacts: str
    models: str
    data: str
    """Directory of the content-addressed training sets."""

    log_uri: str
    candidates: str = "lightgbm,mlp"
    """Kinds of model that compete."""

    segments: Sequence[str] = ("class",)
    """`learning.Segmentation`s, as texts; one at least, since a loop over none fails locally."""

    telemetry: str = ""
    """A file of telemetry to make the first model from; empty: simulated."""

    champion: str = ""
    since: float = 0.0
    """Record time from which on the world is as it is now, seconds since the epoch."""

    until: float = 0.0
    """Record time at which the run started: a repeat of it reads the same rows."""

    def arguments(self, pipeline: Callable[..., Any]) -> dict[str, Any]:
        """Those that a pipeline function names."""
        function = getattr(pipeline, "pipeline_func", pipeline)
        names = inspect.signature(function).parameters
        given = {**asdict(self), "segments": list(self.segments)}
        return {name: value for name, value in given.items() if name in names}
