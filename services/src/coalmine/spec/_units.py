"""The scalar types of the service file: durations, sizes, names."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def _parse_duration(value: Any) -> Any:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", value.strip())
        if match is None:
            raise ValueError("a duration is a number with a unit: 500ms, 10s, 5m, 2h, 1d")
        return float(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a duration is a number with a unit: 500ms, 10s, 5m, 2h, 1d")
    return float(value)


def _parse_size(value: Any) -> Any:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+)\s*(B|KiB|MiB|GiB)", value.strip())
        if match is None:
            raise ValueError("a size is a whole number with a unit: 512KiB, 8MiB, 1GiB")
        return int(match[1]) * _SIZES[match[2]]
    return value


Duration = Annotated[
    float,
    BeforeValidator(_parse_duration),
    Field(ge=0, allow_inf_nan=False),
    WithJsonSchema({"type": ["string", "number"], "examples": ["500ms", "10s", "5m", "2h", "1d"]}),
]
Size = Annotated[
    int,
    BeforeValidator(_parse_size),
    Field(gt=0),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["512KiB", "8MiB"]}),
]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
DottedPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^/]+")]
HeaderName = Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]


_SHORTEST_INTERVAL = 60.0
_CRON_FIELDS = 5


def parse_interval(schedule: str) -> float | None:
    """The seconds of a schedule such as `24h`; None if it is a cron expression.

    >>> parse_interval("24h"), parse_interval("0 3 * * *")
    (86400.0, None)
    """
    try:
        return float(_parse_duration(schedule))
    except ValueError:
        return None


def _check_schedule(schedule: str) -> str:
    seconds = parse_interval(schedule)
    if seconds is not None:
        if seconds < _SHORTEST_INTERVAL:
            raise ValueError("an interval is at least 1m")
        return schedule
    from datetime import UTC, datetime

    from cronsim import CronSim, CronSimError

    try:
        if len(schedule.split()) != _CRON_FIELDS:
            raise CronSimError("it does not have five fields")
        next(CronSim(schedule, datetime(2026, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        raise ValueError(
            f"a schedule is an interval (24h) or cron's five fields in UTC ('0 3 * * *'): "
            f"{str(error) or 'it is never due'}"
        ) from None
    return schedule


Schedule = Annotated[str, AfterValidator(_check_schedule)]
