"""The detectors that are supported: what each needs, and which of its options a file may set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["CATALOGUE", "Entry", "Kind"]

Kind = Literal["window", "online", "outlier"]
Columns = Literal["numeric", "continuous", "categorical", "mixed", "binary"]

_CD = "alibi_detect.cd"
_OD = "alibi_detect.od"

_INT = "a whole number of 1 or more"
_POSITIVE = "a number above 0"
_SHARE = "a number between 0 and 1"
_FLAG = "true or false"
_SIGMA = "a number above 0, or a list of them"
_SIZES = "a list of whole numbers of 2 or more"
_SAMPLES = "`auto`, a whole number of 1 or more, or a share"


@dataclass(frozen=True)
class Entry:
    """What is known of a detector."""

    kind: Kind
    columns: Columns
    options: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    """What a file may set: what is allowed, in words, or the words that are."""

    defaults: Mapping[str, object] = field(default_factory=dict)
    """Where ours differ from alibi-detect's, or it has none."""

    module: str = _CD
    reference_rows: int = 5000
    backends: tuple[str, ...] = ()
    """Frameworks it can compute with; none: it needs none."""

    standardised: bool = False
    """Whether features are scaled first: distances in their own units would be those of one."""

    permutes: bool = False
    """Whether its p-value is the share of permutations beyond: 0 at times, which none can be."""

    bootstraps: bool = False
    """Whether its thresholds are simulated when it is made."""


_FRAMEWORKS = ("tensorflow", "pytorch")
_TORCH = ("pytorch",)
_Options = Mapping[str, str | tuple[str, ...]]
_TEST: _Options = {
    "p_val": _SHARE,
    "correction": ("bonferroni", "fdr"),
}
_SIDES = ("two-sided", "less", "greater")
_KERNEL: _Options = {
    "p_val": _SHARE,
    "n_permutations": _INT,
    "sigma": _SIGMA,
    "backend": _FRAMEWORKS,
}
_TRAINED: _Options = {
    "p_val": _SHARE,
    "train_size": _SHARE,
    "n_folds": _INT,
    "binarize_preds": _FLAG,
}

CATALOGUE: Mapping[str, Entry] = {
    "KSDrift": Entry("window", "numeric", {**_TEST, "alternative": _SIDES}),
    "CVMDrift": Entry("window", "continuous", _TEST),
    "ChiSquareDrift": Entry("window", "categorical", _TEST),
    "TabularDrift": Entry("window", "mixed", {**_TEST, "alternative": _SIDES}),
    "FETDrift": Entry(
        "window",
        "binary",
        {**_TEST, "alternative": _SIDES},
        # Its own default sees only a rise.
        defaults={"alternative": "two-sided"},
    ),
    "MMDDrift": Entry(
        "window", "numeric", _KERNEL,
        reference_rows=1000, backends=_FRAMEWORKS, standardised=True, permutes=True,
    ),
    "LSDDDrift": Entry(
        "window", "numeric", {**_KERNEL, "n_kernel_centers": _INT, "lambda_rd_max": _SHARE},
        reference_rows=1000, backends=_FRAMEWORKS, standardised=True, permutes=True,
    ),
    "ClassifierDrift": Entry(
        "window",
        "numeric",
        {**_TRAINED, "model": ("random_forest", "logistic_regression", "gradient_boosting")},
        defaults={"model": "random_forest"},
        reference_rows=1000,
    ),
    "SpotTheDiffDrift": Entry(
        "window",
        "numeric",
        {
            **_TRAINED, "n_diffs": _INT, "l1_reg": _POSITIVE, "learning_rate": _POSITIVE,
            "batch_size": _INT, "epochs": _INT, "backend": _FRAMEWORKS,
        },
        # Its own, 1e-3 and 3, leave the differences where they began on a thousand rows.
        defaults={"learning_rate": 0.05, "epochs": 20},
        reference_rows=1000, backends=_FRAMEWORKS, standardised=True,
    ),
    "CVMDriftOnline": Entry(
        "online", "continuous", {"window_sizes": _SIZES, "n_bootstraps": _INT, "batch_size": _INT},
        reference_rows=500, bootstraps=True,
    ),
    "FETDriftOnline": Entry(
        "online",
        "binary",
        {
            "window_sizes": _SIZES, "n_bootstraps": _INT, "t_max": _INT, "lam": _SHARE,
            "alternative": ("less", "greater"),
        },
        reference_rows=500, bootstraps=True,
    ),
    "MMDDriftOnline": Entry(
        "online", "numeric", {"n_bootstraps": _INT, "sigma": _SIGMA, "backend": _FRAMEWORKS},
        reference_rows=500, backends=_FRAMEWORKS, standardised=True, bootstraps=True,
    ),
    "LSDDDriftOnline": Entry(
        "online",
        "numeric",
        {
            "n_bootstraps": _INT, "sigma": _SIGMA, "n_kernel_centers": _INT,
            "lambda_rd_max": _SHARE, "backend": _FRAMEWORKS,
        },
        reference_rows=500, backends=_FRAMEWORKS, standardised=True, bootstraps=True,
    ),
    "IForest": Entry(
        "outlier", "numeric", {"n_estimators": _INT, "max_samples": _SAMPLES, "bootstrap": _FLAG},
        module=f"{_OD}.isolationforest",
    ),
    "Mahalanobis": Entry(
        "outlier", "numeric", {"n_components": _INT, "std_clip": _POSITIVE, "start_clip": _INT},
        module=f"{_OD}.mahalanobis",
    ),
    "SpectralResidual": Entry(
        "outlier", "numeric",
        {"window_amp": _INT, "window_local": _INT, "n_est_points": _INT, "n_grad_points": _INT},
        defaults={"window_amp": 20, "window_local": 20, "n_est_points": 10},
        module=f"{_OD}.sr",
    ),
    "GMM": Entry("outlier", "numeric", {"n_components": _INT}, module=f"{_OD}._gmm"),
    "KNN": Entry(
        "outlier", "numeric", {"k": _INT}, defaults={"k": 10},
        module=f"{_OD}._knn", backends=_TORCH, standardised=True,
    ),
    "LOF": Entry(
        "outlier", "numeric", {"k": _INT}, defaults={"k": 10},
        module=f"{_OD}._lof", backends=_TORCH, standardised=True,
    ),
    "PCA": Entry(
        "outlier", "numeric", {"n_components": _INT}, defaults={"n_components": 2},
        module=f"{_OD}._pca", backends=_TORCH, standardised=True,
    ),
    "SVM": Entry(
        "outlier", "numeric", {"nu": _SHARE, "n_components": _INT},
        defaults={"nu": 0.05, "n_components": 100},
        module=f"{_OD}._svm", backends=_TORCH, standardised=True,
    ),
}  # fmt: skip
