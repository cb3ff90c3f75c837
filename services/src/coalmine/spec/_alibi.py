"""The detectors of alibi-detect that a service file asks for; theirs is an environment apart."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from coalmine.spec._units import Name

__all__ = ["AlibiDetector", "AlibiSpec"]

AlibiDetector = Literal[
    # Of windows.
    "KSDrift", "CVMDrift", "ChiSquareDrift", "TabularDrift", "FETDrift", "MMDDrift", "LSDDDrift",
    "ClassifierDrift", "SpotTheDiffDrift",
    # Online, row by row.
    "CVMDriftOnline", "FETDriftOnline", "MMDDriftOnline", "LSDDDriftOnline",
    # Of outliers.
    "IForest", "Mahalanobis", "SpectralResidual", "GMM", "KNN", "LOF", "PCA", "SVM",
]  # fmt: skip


class AlibiSpec(BaseModel):
    """One detector of alibi-detect, which becomes a monitor with incidents of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    """Tells it from the others in metrics, incidents and the state directory: `alibi/NAME`."""

    detector: AlibiDetector | None = None
    """Its class; null: `saved` says where it is."""

    saved: str | None = None
    """Directory of a detector that alibi-detect's `save_detector` wrote."""

    trusted: bool = False
    """A saved detector is pickled code: whoever wrote it can do all that the monitor may do."""

    features: tuple[str, ...] = ()
    """Columns it sees, in this order; none: all that suit it."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the class, by name."""

    window_rows: Annotated[int, Field(ge=2, le=100_000)] | None = None
    """Rows judged together; of an online detector, its sliding window. null: 500; online, 50."""

    expected_run_length: Annotated[int, Field(ge=2)] | None = None
    """Between two false alarms, were rows independent. Windows (null: 100); online: rows (1000)."""

    reference_rows: Annotated[int, Field(ge=20, le=1_000_000)] | None = None
    """Rows of the reference that it compares with, evenly from all of it. null: what suits it."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of everything random in it, so that a replay gives the same verdicts."""

    @model_validator(mode="after")
    def _check(self) -> AlibiSpec:
        if (self.detector is None) == (self.saved is None):
            raise ValueError("give either `detector`, a class, or `saved`, a directory")
        if self.saved is None:
            if self.trusted:
                raise ValueError("`trusted` belongs to `saved`")
            return self
        if not self.trusted:
            raise ValueError(
                "loading a saved detector runs code that is in it; if you trust whoever wrote it, "
                "say so with `trusted: true`"
            )
        if not self.features:
            raise ValueError("`saved` needs `features`: the columns it was made for, in order")
        if self.options or self.expected_run_length is not None:
            raise ValueError("`options` and `expected_run_length` of a saved detector are in it")
        return self
