"""The pictures of a report. Matplotlib is imported when the first is drawn, and opens no window.

All share the same horizontal axis, seconds since the start of the run, and the same margins, so
that one above the other they can be read as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np

from coalmine.demo._expectations import ACCURACY_MARGIN
from coalmine.demo._facts import RolloutFact
from coalmine.demo._history import ScoreSample
from coalmine.demo._ledger import Bin, Phase
from coalmine.demo._spans import Span
from coalmine.demo._story import Story

__all__ = ["PICTURES", "draw"]

# Okabe and Ito's palette: told apart by readers with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_INK, _FAINT, _ALARM = "#333333", "#BBBBBB", "#C0392B"
_PHASES = {Phase.BEFORE: "#EAF3FA", Phase.DURING: "#FDF0E3", Phase.AFTER: "#E8F6EF"}
_STATES = {
    "pending": "#CCCCCC", "shadowing": "#56B4E9", "stepping": "#E69F00", "holding": "#F0E442",
    "promoted": "#009E73", "rolled_back": "#C0392B", "aborted": "#C0392B",
}  # fmt: skip
_FEW_REQUESTS = 8
_LEGEND: Mapping[str, Any] = {
    "loc": "upper left",
    "bbox_to_anchor": (1.01, 0.98),
    "fontsize": 8,
    "frameon": False,
    "handlelength": 1.4,
    "borderaxespad": 0.0,
}
_HIGHLIGHTED = 6
_TICKS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def draw(name: str, story: Story) -> bytes:
    """One picture, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    title, height, painter = PICTURES[name]
    figure = Figure(figsize=(11, height), dpi=130, layout=None)
    figure.subplots_adjust(left=0.14, right=0.83, top=1 - 0.68 / height, bottom=0.55 / height)
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.set_xlim(0, max(story.offset(story.ended), 1.0))
    axes.set_xlabel("seconds since the start", fontsize=9, color=_INK)
    painter(axes, story)
    figure.text(0.01, 1 - 0.1 / height, title, fontsize=11, color=_INK, fontweight="bold", va="top")
    target = BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()


def _paint_accuracy(axes: Any, story: Story) -> None:
    _phases_and_moments(axes, story)
    before = story.facts.accuracy[Phase.BEFORE].value
    if np.isfinite(before):
        axes.axhline(before, color=_INK, lw=0.8, ls=":")
        axes.axhspan(before - ACCURACY_MARGIN, before, color=_FAINT, alpha=0.3, lw=0)
        note = f"before {before:.1%}"
        _note(axes, before, note, colour=_INK)
    lowest = 1.0
    for version, colour in _version_colours(story).items():
        bins = [b for b in story.bins if b.version == version]
        bins = [b for b in bins if b.accuracy.requests >= _FEW_REQUESTS]
        for stretch in _unbroken(bins):
            x = [story.offset(b.time) for b in stretch]
            low = [b.accuracy.low for b in stretch]
            high = [b.accuracy.high for b in stretch]
            axes.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
            values = [b.accuracy.value for b in stretch]
            axes.plot(x, values, color=colour, lw=1.6, marker="o", ms=2.5)
            lowest = min(lowest, *low)
        axes.plot([], [], color=colour, lw=2, label=f"version {version}")
    axes.set_ylim(max(0.0, lowest - 0.03), 1.005)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("right answers, 95 % interval", fontsize=9, color=_INK)
    _legend(axes)


def _paint_traffic(axes: Any, story: Story) -> None:
    totals: dict[float, int] = {}
    for b in story.bins:
        totals[b.time] = totals.get(b.time, 0) + b.accuracy.requests
    times = sorted(totals)
    bottom = np.zeros(len(times))
    x = [story.offset(time) for time in times]
    width = min(np.diff(times), default=1.0)
    for version, colour in _version_colours(story).items():
        counts = {b.time: b.accuracy.requests for b in story.bins if b.version == version}
        share = np.array([100 * counts.get(time, 0) / totals[time] for time in times])
        axes.bar(
            x, share, width, bottom=bottom, color=colour, alpha=0.55, lw=0,
            label=f"answered by {version}",
        )  # fmt: skip
        bottom += share
    weights = [
        (story.offset(sample.time), sample.controller.get("canary", 0))
        for sample in story.history.weights
        if sample.controller
    ]
    if weights:
        axes.step(
            [at for at, _ in weights],
            [100 - weight for _, weight in weights],
            where="post", color=_INK, lw=1.4, label="stable's weight",
        )  # fmt: skip
    axes.set_ylim(0, 104)
    axes.set_ylabel("% of requests", fontsize=9, color=_INK)
    _moments(axes, story)
    _legend(axes)


def _paint_drift(axes: Any, story: Story) -> None:
    _phases_and_moments(axes, story)
    series: dict[str, list[ScoreSample]] = {}
    for sample in story.history.scores:
        if sample.threshold > 0:
            series.setdefault(sample.feature, []).append(sample)
    ranked = sorted(series, key=lambda name: -max(s.score / s.threshold for s in series[name]))
    for rank, feature in reversed(list(enumerate(ranked))):
        samples = series[feature]
        x = [story.offset(s.time) for s in samples]
        y = [max(s.score / s.threshold, 0.0) for s in samples]
        label = feature.replace(" (", "\n(")
        if rank < _HIGHLIGHTED:
            axes.plot(x, y, color=_COLOURS[rank], lw=1.6, label=label, zorder=5)
        else:
            axes.plot(x, y, color=_FAINT, lw=0.7, alpha=0.8)
    # Linear up to the threshold, logarithmic above: a shift may be a hundred times too large.
    axes.set_yscale("symlog", linthresh=1.0, linscale=1.0)
    high = max(axes.get_ylim()[1], 3.0)
    axes.axhline(1.0, color=_ALARM, lw=1.2)
    axes.axhspan(1.0, high, color=_ALARM, alpha=0.05, lw=0)
    _note(axes, 1.0, "threshold", colour=_ALARM)
    axes.set_ylim(0, high)
    axes.set_yticks([tick for tick in _TICKS if tick <= high])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.set_ylabel("score / threshold", fontsize=9, color=_INK)
    _legend(axes, reverse=True)


def _paint_timeline(axes: Any, story: Story) -> None:
    rows = [("what the demo did", _stage_bars(story)), *_decision_rows(story)]
    for row, (_, bars) in enumerate(reversed(rows)):
        for span, colour in bars:
            start, end = story.offset(span.start), story.offset(span.end)
            axes.barh(row, max(end - start, 0.6), left=start, height=0.62, color=colour, lw=0)
            room = (end - start) / max(story.offset(story.ended), 1.0)
            if room > 0.011 * len(span.name):
                axes.text((start + end) / 2, row, span.name, fontsize=7.5, ha="center", va="center")
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)], fontsize=8)
    axes.set_ylim(-0.6, len(rows) - 0.2)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    _name_states(axes, story)
    _moments(axes, story)


def _name_states(axes: Any, story: Story) -> None:
    """A legend of the rollouts' colours: most states are too short for a name on the bar."""
    from matplotlib.patches import Patch

    seen = {s.name for r in story.facts.rollouts for s in _until_now(r, story.ended)}
    handles = [
        Patch(color=colour, label=state.replace("_", " "))
        for state, colour in _STATES.items()
        if state in seen
    ]
    if handles:
        axes.legend(handles=handles, title="rollout", title_fontsize=8, **_LEGEND)


def _stage_bars(story: Story) -> list[tuple[Span, str]]:
    shades = ("#D9E2EC", "#C3D0DD")
    return [(span, shades[i % 2]) for i, span in enumerate(story.stages)]


def _decision_rows(story: Story) -> list[tuple[str, list[tuple[Span, str]]]]:
    rows: list[tuple[str, list[tuple[Span, str]]]] = []
    for kind, colour in (("data_quality", "#CC79A7"), ("drift", "#E69F00"), ("accuracy", _ALARM)):
        bars = [
            (Span(kind.replace("_", " "), i.opened_at, i.closed_at or story.ended), colour)
            for i in story.facts.incidents
            if i.kind == kind
        ]
        if bars:
            rows.append((f"incident: {kind.replace('_', ' ')}", bars))
    runs = [
        (Span(run.kind, run.started, run.ended or story.ended), "#A6CEE3")
        for run in story.facts.runs
        if run.started is not None
    ]
    rows.append(("pipeline", runs))
    for rollout in story.facts.rollouts:
        bars = [
            (Span(state.name, state.start, state.end), _STATES.get(state.name, _FAINT))
            for state in _until_now(rollout, story.ended)
        ]
        rows.append((f"rollout of {rollout.version}", bars))
    return rows


def _until_now(rollout: RolloutFact, now: float) -> list[Span]:
    """The rollout's states; the last one lasts until now if it is not over."""
    spans = list(rollout.detail.get("spans", ()))
    if spans and rollout.ended is None:
        spans[-1] = Span(spans[-1].name, spans[-1].start, now)
    return spans


def _version_colours(story: Story) -> dict[str, str]:
    versions = sorted({b.version for b in story.bins}, key=lambda v: (len(v), v))
    return {version: _COLOURS[i % len(_COLOURS)] for i, version in enumerate(versions)}


def _unbroken(bins: list[Bin]) -> list[list[Bin]]:
    """Bins split where there is a gap, so that no line is drawn over a time without answers."""
    gaps = np.diff([b.time for b in bins])
    step = min(gaps, default=1.0)
    stretches: list[list[Bin]] = []
    for b in bins:
        if stretches and b.time - stretches[-1][-1].time <= 1.5 * step:
            stretches[-1].append(b)
        else:
            stretches.append([b])
    return stretches


def _phases_and_moments(axes: Any, story: Story) -> None:
    for phase, span in story.phases.items():
        start, end = story.offset(span.start), story.offset(span.end)
        axes.axvspan(start, end, color=_PHASES[phase], lw=0, zorder=0)
    _moments(axes, story)


def _moments(axes: Any, story: Story) -> None:
    """The three moments a reader looks for, as vertical lines with their names above."""
    drift, reaction = story.drift(), story.facts.reaction()
    moments = [
        ("injected", story.facts.injected_at, _INK),
        ("detected", drift.opened_at if drift else None, _ALARM),
        (reaction.state.replace("_", " ") if reaction else "", _end_of(reaction), "#009E73"),
    ]
    ends = [0.0, 0.0]  # where the names on the lower and on the upper line end
    for name, time, colour in moments:
        if time is None:
            continue
        at = story.offset(time)
        axes.axvline(at, color=colour, lw=1.0, ls="--", zorder=6)
        share = at / max(story.offset(story.ended), 1.0)
        line = 0 if share >= ends[0] else 1
        ends[line] = share + 0.012 * len(name)
        axes.annotate(
            name,
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 2 + 10 * line),
            textcoords="offset points",
            fontsize=8,
            color=colour,
            annotation_clip=False,
        )


def _note(axes: Any, height: float, text: str, *, colour: str) -> None:
    """Names a horizontal line, just above its left end."""
    axes.annotate(
        text,
        (0.005, height),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        fontsize=8,
        color=colour,
    )


def _end_of(rollout: RolloutFact | None) -> float | None:
    return None if rollout is None else rollout.ended


def _legend(axes: Any, *, reverse: bool = False) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if reverse:
        handles, labels = handles[::-1], labels[::-1]
    if handles:
        axes.legend(handles, labels, **_LEGEND)


#: name -> title, height in inches, painter
PICTURES: Mapping[str, tuple[str, float, Callable[[Any, Story], None]]] = {
    "accuracy": ("Accuracy, as the client knows it", 3.5, _paint_accuracy),
    "traffic": ("Traffic split", 2.6, _paint_traffic),
    "drift": ("Drift scores against their thresholds", 3.5, _paint_drift),
    "timeline": ("What happened when", 3.1, _paint_timeline),
}
