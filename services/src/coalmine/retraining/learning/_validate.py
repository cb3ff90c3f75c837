"""Validation with Great Expectations, failing with a report that a person can read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalmine.retraining._errors import DataInvalid
from coalmine.retraining.learning._imports import hidden

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_EXAMPLES = 3
_NUMBERS = tuple(
    f"{kind}{bits}"
    for kind, widths in (("float", (16, 32, 64)), ("int", (8, 16, 32, 64)))
    for bits in widths
)
#: Great Expectations imports the drivers of all clouds and databases that it finds: half its time.
_DRIVERS = ("azure", "boto3", "botocore", "google", "pyspark", "sklearn", "sqlalchemy")


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
    rows: pd.DataFrame = table.to_pandas()
    findings = _findings(rows, expected)
    report = _report(rows, expected, title=title, findings=findings)
    if findings:
        raise DataInvalid(f"{title}: {'; '.join(findings)}", report=report)
    return report


def _findings(rows: pd.DataFrame, expected: Mapping[str, Expect]) -> list[str]:
    """One sentence for each expectation that is not met, by column."""
    gx = _load()
    # Ephemeral: nothing is looked for, or left behind, in the working directory.
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = gx.data_context.types.base.ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    batch = source.add_batch_definition_whole_dataframe("rows")
    suite = gx.ExpectationSuite("table", expectations=_suite(gx.expectations, expected))
    checks = gx.ValidationDefinition(name="table", data=batch, suite=context.suites.add(suite))
    result = context.validation_definitions.add(checks).run(
        batch_parameters={"dataframe": rows},
        result_format={"result_format": "BASIC", "partial_unexpected_count": _EXAMPLES},
    )
    failed = [found.to_json_dict() for found in result.results if not found.success]
    judged = [found for found in failed if _is_judged(found)]
    # A check raises on a column that is missing or of another type: a finding already, as a rule.
    unclear = set(map(_column, failed)) - set(map(_column, judged))
    findings = {_sentence(found, expected) for found in judged}
    return sorted(findings | {f"column {name!r} could not be checked" for name in unclear})


def _column(found: Mapping[str, Any]) -> str:
    return str(found["expectation_config"]["kwargs"].get("column", ""))


def _is_judged(found: Mapping[str, Any]) -> bool:
    exists = found["expectation_config"]["type"] == "expect_column_to_exist"
    return exists or bool(found["result"])


def _load() -> Any:
    """Great Expectations, without what it would import and report home by itself."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with hidden(*_DRIVERS), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # it imports modules that Python and its own peers deprecate
        import great_expectations
        import great_expectations.expectations
    return great_expectations


def _suite(gxe: Any, expected: Mapping[str, Expect]) -> Iterator[Any]:
    yield gxe.ExpectTableRowCountToBeBetween(min_value=1)
    for name, expect in expected.items():
        yield gxe.ExpectColumnToExist(column=name)
        yield gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=1 - expect.max_missing)
        if expect.kind == "number":
            yield gxe.ExpectColumnValuesToBeInTypeList(column=name, type_list=list(_NUMBERS))
            if expect.lowest is not None or expect.highest is not None:
                yield gxe.ExpectColumnValuesToBeBetween(
                    column=name,
                    min_value=expect.lowest,
                    max_value=expect.highest,
                    mostly=1 - expect.max_outside,
                )
        if expect.values is not None:
            yield gxe.ExpectColumnValuesToBeInSet(column=name, value_set=list(expect.values))


def _sentence(found: Mapping[str, Any], expected: Mapping[str, Expect]) -> str:
    """What was expected of which column, how many values are not so, and some of them."""
    check, name, result = found["expectation_config"]["type"], _column(found), found["result"]
    if not name:
        return "there are no rows"
    if check == "expect_column_to_exist":
        return f"column {name!r} is missing"
    expect = expected[name]
    count = f"{result['unexpected_count']} of {result['element_count']} rows"
    if check == "expect_column_values_to_not_be_null":
        return f"column {name!r} has more than {expect.max_missing:.1%} missing: {count}"
    examples = ", ".join(str(value) for value in result["partial_unexpected_list"][:_EXAMPLES])
    if check == "expect_column_values_to_be_in_type_list":
        return f"column {name!r} is not of type number: {count}, such as {examples}"
    if check == "expect_column_values_to_be_between":
        return f"column {name!r} has {_range_text(expect)}: {count}, such as {examples}"
    allowed = ", ".join(expect.values or ())
    return f"column {name!r} has other values than {allowed}: {count}, such as {examples}"


def _range_text(expect: Expect) -> str:
    lowest = "-inf" if expect.lowest is None else f"{expect.lowest:g}"
    highest = "inf" if expect.highest is None else f"{expect.highest:g}"
    return f"more than {expect.max_outside:.1%} outside [{lowest}, {highest}]"


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
