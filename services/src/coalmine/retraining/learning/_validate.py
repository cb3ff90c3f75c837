"""Validation with Pandera, failing with a report that a person can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalmine.retraining._errors import DataInvalid

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Expect:
    """What a column must be."""

    kind: str = "number"
    """`number`, or `text`."""

    lowest: float | None = None
    highest: float | None = None
    values: tuple[str, ...] | None = None
    """The allowed texts."""

    max_missing: float = 0.0
    """Share of missing values above which the column is unusable."""

    max_outside: float = 0.0
    """Share of values out of range above which it is: a broken sensor here and there is life."""


def validate_table(table: pa.Table, expected: Mapping[str, Expect], *, title: str) -> str:
    """The report, in Markdown; `DataInvalid` has it too, and says what failed, if a check fails."""
    import pandera.pandas as pandera
    from pandera.errors import SchemaErrors

    rows: pd.DataFrame = table.to_pandas()
    schema = pandera.DataFrameSchema(
        {name: _column(pandera, expect) for name, expect in expected.items()},
        checks=pandera.Check(lambda frame: len(frame) > 0, name="has rows", error="has rows"),
    )
    failures: list[str] = []
    try:
        schema.validate(rows, lazy=True)
    except SchemaErrors as error:
        failures = [_sentence(row) for row in error.failure_cases.to_dict("records")]
    findings = sorted(set(failures))
    report = _report(rows, expected, title=title, findings=findings)
    if findings:
        raise DataInvalid(f"{title}: {'; '.join(findings)}", report=report)
    return report


def _column(pandera: Any, expect: Expect) -> Any:
    """A Pandera column whose checks judge the column as a whole."""

    def few_missing(values: pd.Series) -> bool:
        return bool(values.isna().mean() <= expect.max_missing)

    checks = [
        pandera.Check(few_missing, error=f"more than {expect.max_missing:.1%} missing"),
    ]
    if expect.kind == "number":
        checks.append(pandera.Check(_mostly_inside(expect), error=_range_text(expect)))
    if expect.values is not None:
        allowed = expect.values
        checks.append(
            pandera.Check(
                lambda values: bool(values.dropna().isin(allowed).all()),
                error=f"other values than {', '.join(allowed)}",
            )
        )
    dtype = float if expect.kind == "number" else str
    # Missing values are judged by share, so Pandera itself lets them pass.
    for check in checks:
        check.ignore_na = False
    return pandera.Column(dtype, checks, nullable=True, coerce=expect.kind == "number")


def _mostly_inside(expect: Expect) -> Any:
    # Not `in_range`: Pandera takes a function of that name for its own check.
    def mostly_inside(values: pd.Series) -> bool:
        present = values.dropna()
        if present.empty:
            return True
        outside = ~present.between(
            float("-1e30") if expect.lowest is None else expect.lowest,
            float("1e30") if expect.highest is None else expect.highest,
        )
        return bool(outside.mean() <= expect.max_outside)

    return mostly_inside


def _range_text(expect: Expect) -> str:
    lowest = "-inf" if expect.lowest is None else f"{expect.lowest:g}"
    highest = "inf" if expect.highest is None else f"{expect.highest:g}"
    return f"more than {expect.max_outside:.1%} outside [{lowest}, {highest}]"


def _sentence(case: Mapping[str, Any]) -> str:
    """One failure case of Pandera's as a sentence."""
    if case["check"] == "column_in_dataframe":
        return f"column {case['failure_case']!r} is missing"
    if str(case["check"]).startswith(("dtype", "coerce_dtype")):
        return f"column {case['column']!r} is not of type {case['check'].split('(')[-1].strip(')')}"
    if case["check"] == "has rows":
        return "there are no rows"
    return f"column {case['column']!r} has {case['check']}"


def _report(
    rows: pd.DataFrame, expected: Mapping[str, Expect], *, title: str, findings: list[str]
) -> str:
    import pandas as pd

    verdict = "passed" if not findings else f"failed, {len(findings)} findings"
    lines = [f"# {title}: {verdict}", "", f"{len(rows)} rows.", ""]
    lines += [f"- {finding}" for finding in findings]
    lines += ["", "| column | missing | lowest | median | highest |", "|---|---|---|---|---|"]
    for name, expect in expected.items():
        if name in rows and expect.kind == "number":
            values = pd.to_numeric(rows[name], errors="coerce")
            numbers = " | ".join(f"{v:.4g}" for v in values.quantile([0.0, 0.5, 1.0]))
            lines.append(f"| {name} | {values.isna().mean():.2%} | {numbers} |")
    return "\n".join(lines) + "\n"
