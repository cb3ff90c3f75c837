"""What a search may try: one description, for Optuna here and for Katib on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

Params = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Dimension:
    """One parameter of a model: a range of numbers, ends included."""

    low: float
    high: float
    default: float
    whole: bool = False
    """Whole numbers only."""

    log: bool = False
    """Tried evenly by their logarithm: from 1 to 10 as often as from 10 to 100."""

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        """What Optuna wants to try next."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def distribution(self) -> Any:
        """For a trial that Optuna is told of."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


Space = Mapping[str, Dimension]


def defaults(space: Space) -> dict[str, float]:
    """The parameters that are tried first."""
    return {
        name: int(dimension.default) if dimension.whole else dimension.default
        for name, dimension in space.items()
    }


def parse_params(texts: Mapping[str, str], space: Space) -> dict[str, float]:
    """Parameters given as texts, as Katib gives them; the defaults for those that are not.

    >>> parse_params({"depth": "3"}, {"depth": Dimension(1, 8, default=4, whole=True)})
    {'depth': 3}
    """
    if unknown := sorted(set(texts) - set(space)):
        raise ValueError(f"{', '.join(unknown)}: not in the search space ({', '.join(space)})")
    given: dict[str, float] = {}
    for name, text in texts.items():
        number, dimension = float(text), space[name]
        if not dimension.low <= number <= dimension.high:
            raise ValueError(f"{name}: {text} is outside [{dimension.low:g}, {dimension.high:g}]")
        given[name] = int(number) if dimension.whole else number
    return {**defaults(space), **given}
