"""Pictures as SVG inside the page: bars of two distributions, and lines over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from coalmine.report._facts import Shape

__all__ = ["Band", "Line", "bars", "chart", "moment"]

Scale = Callable[[float], float]

_BLUE, _ORANGE, _RED = "#9db8d2", "#d1662f", "#b03020"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 980, 220, 60, 26


@dataclass(frozen=True, slots=True)
class Line:
    """Values over time; None where there is none. With `low` and `high` an interval around it."""

    name: str
    times: Sequence[float]
    values: Sequence[float | None]
    colour: str
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of time with a name."""

    name: str
    start: float
    end: float


def moment(time: float | None) -> str:
    """A time for a person, UTC."""
    if time is None or not math.isfinite(time) or abs(time) > 9e10:
        return "–"
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")


def bars(shape: Shape) -> str:
    """Shares of the reference (broad) and of the records (narrow) in each bin."""
    width, height, count = 300, 84, max(len(shape.bins), 1)
    top = max([*shape.reference, *shape.present, 1e-9])
    step = width / count
    parts = []
    for index, name in enumerate(shape.bins):
        before, now = shape.reference[index], shape.present[index]
        x = index * step
        parts.append(f"<g><title>{escape(name)}: {before:.1%} before, {now:.1%} now</title>")
        for share, colour, inset in ((before, _BLUE, 0.08), (now, _ORANGE, 0.32)):
            tall = share / top * (height - 4)
            parts.append(
                f'<rect x="{x + inset * step:.1f}" y="{height - tall:.1f}" '
                f'width="{step * (1 - 2 * inset):.1f}" height="{tall:.1f}" fill="{colour}"/>'
            )
        parts.append("</g>")
    label = escape(f"{shape.name}: reference and records")
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )


def chart(lines: Sequence[Line], *, label: str, unit: str = "", bands: Sequence[Band] = ()) -> str:
    """Lines over one axis of time; empty if there is nothing to draw."""
    drawn = [each for each in lines if any(value is not None for value in each.values)]
    if not drawn:
        return ""
    times = [time for line in drawn for time in line.times]
    found = [
        value
        for line in drawn
        for series in (line.values, line.low, line.high)
        for value in series
        if value is not None and math.isfinite(value)
    ]
    first, last = min(times), max(times)
    low, high = min(found), max(found)
    pad = (high - low) * 0.06 or max(abs(high) * 0.06, 0.5)
    low, high = low - pad, high + pad

    def x(time: float) -> float:
        return _LEFT + (time - first) / ((last - first) or 1) * (_WIDTH - _LEFT - 10)

    def y(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return (_HEIGHT - _BOTTOM) * (1 - share)

    parts = [_band(band, x, first=first, last=last) for band in bands]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = low + share * (high - low)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="#e8e8e8"/><text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" '
            f'text-anchor="end">{escape(_tick(value, unit))}</text>'
        )
    for time, anchor in ((first, "start"), (last, "end")):
        parts.append(
            f'<text x="{x(time):.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">'
            f"{moment(time)}</text>"
        )
    for line in drawn:
        parts += _drawn(line, x, y)
    legend = " ".join(
        f'<span class="kind"><span style="color:{line.colour}">■</span> {escape(line.name)}</span>'
        for line in drawn
    )
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="100%" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg><figcaption>{legend}</figcaption></figure>'
    )


def _band(band: Band, x: Scale, *, first: float, last: float) -> str:
    start, end = max(band.start, first), min(band.end, last)
    if end < first or start > last:
        return ""
    left, right = x(start), x(end)
    return (
        f'<g><title>{escape(band.name)}</title><rect x="{left:.1f}" y="0" '
        f'width="{max(right - left, 2):.1f}" height="{_HEIGHT - _BOTTOM}" fill="{_RED}" '
        'opacity="0.10"/></g>'
    )


def _drawn(line: Line, x: Scale, y: Scale) -> list[str]:
    """The line in stretches without a gap, its interval behind it."""
    parts = []
    if line.low and line.high:
        edges = [
            (x(time), y(low), y(high))
            for time, low, high in zip(line.times, line.low, line.high, strict=True)
            if low is not None and high is not None
        ]
        if edges:
            upper = " ".join(f"{at:.1f},{top:.1f}" for at, _, top in edges)
            lower = " ".join(f"{at:.1f},{bottom:.1f}" for at, bottom, _ in reversed(edges))
            parts.append(f'<polygon points="{upper} {lower}" fill="{line.colour}" opacity="0.15"/>')
    stretch: list[str] = []
    for time, value in [*zip(line.times, line.values, strict=True), (0.0, None)]:
        if value is not None and math.isfinite(value):
            stretch.append(f"{x(time):.1f},{y(value):.1f}")
            continue
        if len(stretch) == 1:
            at, up = stretch[0].split(",")
            parts.append(f'<circle cx="{at}" cy="{up}" r="2.5" fill="{line.colour}"/>')
        elif stretch:
            dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
            parts.append(
                f'<polyline points="{" ".join(stretch)}" fill="none" stroke="{line.colour}" '
                f'stroke-width="1.8"{dashes}/>'
            )
        stretch = []
    return parts


def _tick(value: float, unit: str) -> str:
    return f"{value:.0%}" if unit == "%" else f"{value:.3g}"
