"""What a service file asks for, resolved and refused before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalmine.spec import AlibiSpec, ServiceSpec
from coalmine_alibi._catalogue import CATALOGUE, Entry
from coalmine_alibi._errors import AlibiConfigError
from coalmine_alibi._library import backends, load_saved
from coalmine_alibi._values import fits

__all__ = ["Plan", "check", "least_bootstraps", "simulated_steps"]

_WINDOW_ROWS = {"window": 500, "online": 50, "outlier": 500}
_RUN_LENGTH = {"window": 100, "online": 1000, "outlier": 100}
#: The fewest rows of a window from which each kind of detector can conclude anything.
_LEAST_ROWS = {"window": 20, "online": 2, "outlier": 20}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One monitor, with nothing left open but the model version's reference."""

    name: str
    key: str
    """Of the service file, for messages."""

    detector: str
    entry: Entry
    features: tuple[str, ...]
    options: Mapping[str, Any]
    window_rows: int
    run_length: int
    """Windows, of an online detector rows, between two false alarms."""

    reference_rows: int
    seed: int
    saved: Any = None
    """The detector itself, where it was loaded."""


def check(service: ServiceSpec) -> tuple[Plan, ...]:
    """The monitors that the file asks for; AlibiConfigError for the first that cannot be."""
    if not service.monitors.alibi:
        raise AlibiConfigError("monitors.alibi", "the service file names no detector")
    return tuple(
        _plan(spec, key=f"monitors.alibi.{place}")
        for place, spec in enumerate(service.monitors.alibi)
    )


def least_bootstraps(run_length: int, *, features: int, steps: int) -> int:
    """The fewest simulated streams from which the thresholds can be told.

    A quantile of 1 - beta takes 1 / beta streams, and each step takes the share beta of them away.
    """
    beta = float(1 - (1 - 1 / run_length) ** (1 / features))
    return math.ceil(1.2 / beta / (1 - beta) ** steps)


def simulated_steps(plan: Plan) -> int:
    """Rows of the streams that thresholds are simulated on."""
    sizes = plan.options.get("window_sizes")
    return plan.window_rows if sizes is None else 2 * int(max(sizes)) - 1


def _plan(spec: AlibiSpec, *, key: str) -> Plan:
    saved = None
    if spec.saved is not None:
        saved = _load(spec.saved, key=f"{key}.saved")
        detector = type(saved).__name__
        if detector not in CATALOGUE:
            raise AlibiConfigError(
                f"{key}.saved", f"a {detector} is not supported; those are: {', '.join(CATALOGUE)}"
            )
    else:
        detector = str(spec.detector)
    entry = CATALOGUE[detector]
    options = _options(spec, detector=detector, entry=entry, key=f"{key}.options")
    plan = Plan(
        name=spec.name,
        key=key,
        detector=detector,
        entry=entry,
        features=spec.features,
        options=options,
        window_rows=spec.window_rows or _WINDOW_ROWS[entry.kind],
        run_length=_run_length(spec, options, entry=entry, saved=saved),
        reference_rows=spec.reference_rows or entry.reference_rows,
        seed=spec.seed,
        saved=saved,
    )
    _windows_suffice(plan)
    return plan


def _load(directory: str, *, key: str) -> Any:
    if not Path(directory).is_dir():
        raise AlibiConfigError(key, f"{directory} is no directory")
    try:
        return load_saved(directory)
    except Exception as error:  # whatever the code in it raises
        raise AlibiConfigError(key, f"{directory} cannot be loaded: {error}") from error


def _options(spec: AlibiSpec, *, detector: str, entry: Entry, key: str) -> dict[str, Any]:
    for name, value in spec.options.items():
        allowed = entry.options.get(name)
        if allowed is None:
            known = ", ".join(sorted(entry.options))
            raise AlibiConfigError(f"{key}.{name}", f"no option of {detector}; those are: {known}")
        if not fits(value, allowed):
            words = allowed if isinstance(allowed, str) else ", ".join(allowed)
            raise AlibiConfigError(f"{key}.{name}", f"{value!r} is not allowed; it is {words}")
    if "p_val" in spec.options and spec.expected_run_length is not None:
        raise AlibiConfigError(
            f"{key}.p_val", "is 1 / `expected_run_length`, which is given too; leave one out"
        )
    options = {**entry.defaults, **spec.options}
    if entry.backends and spec.saved is None:
        options["backend"] = _backend(options, detector=detector, entry=entry, key=key)
    if entry.kind == "online" and entry.columns != "numeric":
        options.setdefault("window_sizes", [spec.window_rows or _WINDOW_ROWS["online"]])
    return options


def _backend(options: Mapping[str, Any], *, detector: str, entry: Entry, key: str) -> str:
    here = [name for name in backends() if name in entry.backends]
    wanted = options.get("backend")
    if wanted in here or (wanted is None and here):
        return str(wanted or here[0])
    extras = {"tensorflow": "tensorflow", "pytorch": "torch"}
    names = [wanted] if wanted else list(entry.backends)
    raise AlibiConfigError(
        f"{key}.backend" if wanted else key.replace("options", "detector"),
        f"{detector} computes with {' or '.join(names)}, which is not in this environment; install "
        + " or ".join(f"coalmine-monitors-alibi[{extras[name]}]" for name in names),
    )


def _run_length(spec: AlibiSpec, options: Mapping[str, Any], *, entry: Entry, saved: Any) -> int:
    if saved is not None:
        inner = getattr(saved, "_detector", saved)
        told = getattr(inner, "ert", None) or 1 / getattr(inner, "p_val", 0.01)
        return max(round(told), 2)
    if "p_val" in options:
        return max(round(1 / float(options["p_val"])), 2)
    return spec.expected_run_length or _RUN_LENGTH[entry.kind]


def _windows_suffice(plan: Plan) -> None:
    """Refuse windows, permutations and bootstraps from which no alarm can come."""
    if plan.window_rows < _LEAST_ROWS[plan.entry.kind]:
        raise AlibiConfigError(
            f"{plan.key}.window_rows",
            f"{plan.window_rows} rows are too few for {plan.detector}; "
            f"{_LEAST_ROWS[plan.entry.kind]} at least",
        )
    permutations = plan.options.get("n_permutations")
    if permutations is not None and permutations + 1 < plan.run_length:
        raise AlibiConfigError(
            f"{plan.key}.options.n_permutations",
            f"{permutations} permutations give no p-value below 1/{permutations + 1}, so "
            f"there is no alarm once in {plan.run_length} windows; {plan.run_length - 1} at least",
        )
    if plan.entry.bootstraps and plan.features and plan.saved is None:
        refuse_few_bootstraps(plan, features=len(plan.features))


def refuse_few_bootstraps(plan: Plan, *, features: int) -> None:
    """AlibiConfigError if the thresholds cannot be told from `n_bootstraps` streams."""
    given = plan.options.get("n_bootstraps")
    univariate = "window_sizes" in plan.options
    least = least_bootstraps(
        plan.run_length, features=features if univariate else 1, steps=simulated_steps(plan)
    )
    if given is not None and given < least:
        raise AlibiConfigError(
            f"{plan.key}.options.n_bootstraps",
            f"from {given} streams no threshold for a run length of {plan.run_length} rows over "
            f"{features} features can be told; {least} at least, {10 * least} for a good one",
        )
