"""Black-box shift estimation: class shares from predicted ones, by the model's known confusions.

If only the shares of the classes change, and not what rows of a class look like ("label shift"),
then the model confuses classes as it did on the reference. The shares of its predictions are then
the true ones, mixed by the confusion matrix; solving for them undoes the mixing.

Source: Lipton, Wang and Smola, "Detecting and correcting for label shift with black box
predictors", 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import norm

__all__ = ["BlackBoxShift", "ClassShares"]

#: A matrix that multiplies errors by more than this is not inverted.
MAX_CONDITION = 20.0
#: Labelled rows of a class that say how the model confuses it.
MIN_LABELLED = 20
#: Predictions that shares are estimated from.
MIN_ROWS = 20
#: Weight of "shares add up to 1" against the equations for the predictions.
_SUM = 1e3
#: Errors that no shares can explain are more than this many standard errors.
_UNEXPLAINED = 4.0

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ClassShares:
    """Estimated shares of the true classes [classes], with limits of the 95 % interval."""

    share: Floats
    lower: Floats
    upper: Floats
    explained: bool
    """Whether any shares at all give these predictions; if not, more than the shares changed."""


@dataclass(frozen=True)
class BlackBoxShift:
    """The model's confusions on the reference, and what they say about predictions to come.

    >>> table = np.array([[90, 20], [10, 80]])  # predicted in rows, true in columns
    >>> shift = BlackBoxShift.fit(table, classes=("calm", "fault"))
    >>> estimate = shift.estimate(np.array([550, 450]))  # half of each, confused as usual
    >>> estimate.share.round(2).tolist(), shift.refused
    ([0.5, 0.5], '')
    """

    classes: tuple[str, ...]
    confusion: Floats
    """[predicted, true]: how the rows of each true class are predicted; columns add up to 1."""

    labelled: Counts
    """Rows [classes] of each true class that the confusions are of."""

    shares: Floats
    """Of the true classes [classes], on the reference."""

    condition: float
    inflation: float
    refused: str
    """Why there are no estimates; empty if there are."""

    label: str = "label"
    """The column of the predicted class."""

    @classmethod
    def fit(
        cls,
        table: Counts,
        *,
        classes: tuple[str, ...],
        inflation: float = 1.0,
        label: str = "label",
    ) -> BlackBoxShift:
        """Of counts [predicted, true] of rows that the model was not trained on.

        `inflation` is how much more the shares of predictions vary, from one stretch of time to the
        next, than those of independent rows.
        """
        labelled = table.sum(axis=0)
        confusion = table / np.maximum(labelled, 1)
        few = [name for name, rows in zip(classes, labelled, strict=True) if rows < MIN_LABELLED]
        condition = float(np.linalg.cond(confusion)) if not few else float("inf")
        refused = ""
        if len(classes) < 2:
            refused = "there is one class only"
        elif few:
            refused = (
                f"fewer than {MIN_LABELLED} labelled rows of the reference are of class "
                + ", ".join(few)
            )
        elif not condition <= MAX_CONDITION:
            first, second = _alike(confusion, classes)
            refused = (
                f"the model hardly tells {first} from {second}: the confusion matrix has condition "
                f"number {condition:.3g}, it may have {MAX_CONDITION:g}"
            )
        return cls(
            classes=classes,
            confusion=confusion,
            labelled=labelled,
            shares=labelled / max(int(labelled.sum()), 1),
            condition=condition,
            inflation=max(inflation, 1.0),
            refused=refused,
            label=label,
        )

    def estimate(self, predicted: Counts) -> ClassShares | None:
        """From counts [classes] of predictions; None if refused, or if there are too few."""
        rows = float(predicted.sum())
        if self.refused or rows < MIN_ROWS:
            return None
        seen = predicted / rows
        inverse = np.linalg.inv(self.confusion)
        solved = inverse @ seen
        share = _on_the_simplex(self.confusion, seen)
        # Errors of the counts, then those of the confusions, class by class: both are multinomial.
        error = _multinomial(seen) / rows
        for column, part, labelled in zip(self.confusion.T, share, self.labelled, strict=True):
            error = error + part**2 * _multinomial(column) / labelled
        spread = np.sqrt(np.diag(inverse @ error @ inverse.T) * self.inflation)
        reach = norm.ppf(0.975) * spread
        least = 1 / rows  # a class that was never predicted is not surely absent
        outside = np.abs(solved - share) > _UNEXPLAINED * np.maximum(spread, least)
        return ClassShares(
            share=share,
            lower=np.clip(np.minimum(solved - reach, share), 0, 1),
            upper=np.clip(np.maximum(np.maximum(solved + reach, share), least), 0, 1),
            explained=not bool(outside.any()),
        )


def _multinomial(shares: Floats) -> Floats:
    """Covariance of one draw."""
    return np.asarray(np.diag(shares) - np.outer(shares, shares))


def _on_the_simplex(confusion: Floats, seen: Floats) -> Floats:
    """Shares, none negative and 1 together, that come closest to the predictions seen."""
    equations = np.vstack([confusion, np.full((1, confusion.shape[1]), _SUM)])
    share, _ = nnls(equations, np.append(seen, _SUM))
    return np.asarray(share / share.sum())


def _alike(confusion: Floats, classes: tuple[str, ...]) -> tuple[str, str]:
    """The two classes that are predicted most alike."""
    apart = np.abs(confusion[:, :, None] - confusion[:, None, :]).sum(axis=0)
    np.fill_diagonal(apart, np.inf)
    first, second = np.unravel_index(np.argmin(apart), apart.shape)
    return classes[int(first)], classes[int(second)]
