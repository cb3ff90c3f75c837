"""The page, from the facts. Everything that a user named is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from coalmine.html import page, table
from coalmine.report._facts import Facts, Shape
from coalmine.report._svg import Band, Line, bars, chart, moment

__all__ = ["render"]

_STYLE = """
svg text { font: 11px system-ui, sans-serif; fill: #555; }
.shapes { display: flex; flex-wrap: wrap; gap: 1rem 1.4rem; }
.shapes figure { margin: 0; width: 300px; }
.over { color: #b03020; font-weight: 600; }
"""
#: Pictures of columns, the largest drift first; all are in the table.
_SHAPES = 24


def render(facts: Facts) -> str:
    """The report as one HTML file."""
    title = f"Drift report: {facts.model}"
    span = f"{moment(facts.since or _first(facts))} to {moment(facts.until or _last(facts))} UTC"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>version {escape(str(facts.version or 'none'))} · {span} · made "
        f"{moment(facts.made_at)} UTC</p>",
        _summary(facts),
        *(f"<p><em>{escape(note)}</em></p>" for note in facts.notes),
        "<h2>Incidents</h2>" + _incidents(facts),
        "<h2>Drift</h2>" + _evidence(facts) + _features(facts),
        _shapes(facts),
        "<h2>Performance</h2>" + _performance(facts),
        "<h2>Data quality</h2>" + _quality(facts),
        "<h2>Versions</h2>" + _versions(facts),
    ]
    return page(title, parts, style=_STYLE)


def _summary(facts: Facts) -> str:
    drifting = bool(facts.drift and facts.drift[-1]["detected"])
    still = [each for each in facts.incidents if each["closed_at"] is None]
    verdict = (
        '<span class="verdict bad">drift</span>'
        if drifting
        else '<span class="verdict good">no drift</span>'
        if facts.drift
        else '<span class="verdict bad">nothing judged</span>'
    )
    return (
        f'<p class="lead">{verdict} at the end of the range; {len(facts.drift)} windows judged, '
        f"{len(facts.incidents)} incidents, {len(still)} of them open; {facts.rows:,} answered "
        "rows compared with the reference.</p>"
    )


def _incidents(facts: Facts) -> str:
    if not facts.incidents:
        return "<p>None.</p>"
    rows = []
    for each in facts.incidents:
        named = "; ".join(_named(feature) for feature in each["features"])
        rows.append(
            [
                escape(each["kind"].replace("_", " ")),
                escape(each["model_version"]),
                moment(each["onset_at"]),
                moment(each["opened_at"]),
                moment(each["closed_at"]) if each["closed_at"] is not None else "open",
                escape(each["summary"])
                + (f'<br><span class="kind">{escape(named)}</span>' if named else ""),
            ]
        )
    return table(["kind", "version", "since", "opened", "closed", "what"], rows, fit=True)


def _named(feature: Mapping[str, Any]) -> str:
    text = (
        f"{feature['name']} {feature['statistic']} {feature['score']:.3g} ({feature['direction']}"
    )
    share = feature.get("contribution")
    text += ")" if share is None else f", {share:.0%} of the drift)"
    where = feature.get("segments") or ()
    return text + (f" in {', '.join(where)}" if where else "")


def _evidence(facts: Facts) -> str:
    windows = facts.drift
    times = [window["end"] for window in windows]
    lines = [
        Line("log evidence for drift", times, [w["log_evidence"] for w in windows], "#d1662f"),
        Line(
            "evidence that an alarm takes", times,
            [w["log_evidence_threshold"] for w in windows], "#777", dashed=True,
        ),
    ]  # fmt: skip
    bands = [
        Band(each["summary"], each["opened_at"], each["closed_at"] or facts.made_at)
        for each in facts.incidents
        if each["kind"] == "drift"
    ]
    return chart(lines, label="drift evidence over time", bands=bands) or "<p>No window judged.</p>"


def _ranked(facts: Facts) -> list[tuple[str, float]]:
    """Features with their share of what moved, each by its threshold, over all windows."""
    sizes: dict[str, float] = {}
    for window in facts.drift:
        for name, numbers in window["features"].items():
            size = max(numbers["score"] / max(numbers["threshold"], 1e-9), 0.0)
            sizes[name] = sizes.get(name, 0.0) + size
    total = sum(sizes.values()) or 1.0
    return sorted(((name, size / total) for name, size in sizes.items()), key=lambda x: -x[1])


def _features(facts: Facts) -> str:
    if not facts.drift:
        return ""
    last = facts.drift[-1]["features"]
    rows = []
    for name, share in _ranked(facts):
        series = [w["features"][name] for w in facts.drift if name in w["features"]]
        over = sum(numbers["score"] >= numbers["threshold"] for numbers in series)
        now = last.get(name, series[-1])
        score = f"{now['score']:.4f}"
        if now["score"] >= now["threshold"]:
            score = f'<span class="over">{score}</span>'
        rows.append(
            [
                escape(name), f"{share:.0%}", score, f"{now['threshold']:.4f}",
                f"{max(numbers['score'] for numbers in series):.4f}", f"{over} of {len(series)}",
                f"{now['log_evidence']:.1f}", _number(now.get("shift"), "+.2f"),
                _number(now.get("missing"), ".1%"),
            ]
        )  # fmt: skip
    head = [
        "feature", "contribution", "score now", "threshold", "highest", "windows over",
        "log evidence", "shift, sd", "missing",
    ]  # fmt: skip
    return table(head, rows, numbers=" nnnnnnnn")


def _shapes(facts: Facts) -> str:
    if not facts.shapes or not facts.rows:
        return ""
    ranked = [name for name, _ in _ranked(facts) if name in facts.shapes]
    names = [*ranked, *(name for name in facts.shapes if name not in ranked)]
    figures = "".join(_shape(facts.shapes[name]) for name in names[:_SHAPES])
    left = len(names) - _SHAPES
    more = f"<p>{left} more columns are not drawn.</p>" if left > 0 else ""
    return (
        '<h2>Reference and records</h2><p class="kind">Shares of the same bins: the reference '
        "broad and blue, records of the range narrow and orange.</p>"
        f'<div class="shapes">{figures}</div>{more}'
    )


def _shape(shape: Shape) -> str:
    missing = ""
    if shape.missing_reference or shape.missing_present:
        missing = f"; missing {shape.missing_reference:.1%} before, {shape.missing_present:.1%} now"
    span = f"{shape.bins[0]} … {shape.bins[-1]}"
    return (
        f"<figure><strong>{escape(shape.name)}</strong>{bars(shape)}"
        f"<figcaption>{escape(span)}{missing}</figcaption></figure>"
    )


def _performance(facts: Facts) -> str:
    windows = facts.performance.get("windows") or []
    if not windows:
        return "<p>No window: no labels, and no estimate.</p>"
    parts = []
    for arm in sorted({window["arm"] for window in windows}):
        mine = [window for window in windows if window["arm"] == arm]
        times = [window["time"] for window in mine]
        lines = [
            Line(
                "realised accuracy", times, [w["accuracy"] for w in mine], "#00795b",
                [w["lower"] for w in mine], [w["upper"] for w in mine],
            ),
            Line(
                "estimated without labels", times, [w["estimated"] for w in mine], "#0072B2",
                [w["estimated_lower"] for w in mine], [w["estimated_upper"] for w in mine],
                dashed=True,
            ),
            Line("label coverage", times, [_share(window) for window in mine], "#bbb"),
        ]  # fmt: skip
        parts.append(
            f"<h3>{escape(arm)}</h3>" + chart(lines, label=f"performance of {arm}", unit="%")
        )
        parts.append(_scores(mine, [window for window in facts.whole if window["arm"] == arm]))
    valid = facts.performance.get("estimate_valid")
    if valid is False:
        parts.append('<p class="over">The labels contradict the estimates: they are not valid.</p>')
    return "".join(parts)


def _share(window: Mapping[str, Any]) -> float:
    """Labelled share of its rows."""
    return float(window["labelled"] / max(window["instances"], 1))


def _scores(windows: list[Mapping[str, Any]], whole: list[Mapping[str, Any]]) -> str:
    """Every metric of the whole range with its interval, or of the last window that has scores."""
    labelled = sum(window["labelled"] for window in windows)
    instances = sum(window["instances"] for window in windows)
    share = labelled / max(instances, 1)
    told = f"<p>{labelled:,} of {instances:,} rows are labelled ({share:.1%}).</p>"
    shown = next((window for window in [*whole, *reversed(windows)] if window.get("metrics")), None)
    if shown is None:
        return told
    spanned = windows if shown in whole else [shown]
    start, end = spanned[0]["time"], spanned[-1]["end"]
    rows = [
        [escape(name), f"{m['value']:.4f}", _number(m["lower"], ".4f"), _number(m["upper"], ".4f")]
        for name, m in shown["metrics"].items()
    ]
    head = [f"metric, {moment(start)} to {moment(end)}", "value", "lower", "upper"]
    return told + table(head, rows, numbers=" nnn")


def _quality(facts: Facts) -> str:
    faults: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for window in facts.quality:
        for fault in window["faults"]:
            key = (str(fault["feature"]), str(fault["check"]))
            faults.setdefault(key, []).append(window)
    if not faults:
        return f"<p>No fault in {len(facts.quality)} windows.</p>"
    rows = [
        [
            escape(feature),
            escape(rule),
            str(len(seen)),
            moment(seen[0]["start"]),
            moment(seen[-1]["end"]),
        ]
        for (feature, rule), seen in sorted(faults.items(), key=lambda item: -len(item[1]))
    ]
    return table(["feature", "fault", "windows", "first", "last"], rows, numbers="  n")


def _versions(facts: Facts) -> str:
    rows = [
        [escape(name), f"{count:,}", moment(first), moment(last)]
        for name, (count, first, last) in facts.versions.items()
    ]
    return table(["version", "rows in the log", "first", "last"], rows, numbers=" n")


def _first(facts: Facts) -> float | None:
    return min((first for _, first, _ in facts.versions.values()), default=None)


def _last(facts: Facts) -> float | None:
    return max((last for _, _, last in facts.versions.values()), default=None)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
