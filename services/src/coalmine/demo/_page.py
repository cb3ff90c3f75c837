"""report.html: one file, nothing loaded from anywhere, readable without scripts."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

import orjson

from coalmine.demo._ledger import Accuracy, Phase
from coalmine.demo._options import Scenario
from coalmine.demo._story import Story
from coalmine.html import page, table

__all__ = ["render"]

_WORLD = {
    Scenario.CHEMISTRY: "A new cell chemistry enters the fleet: what the model learnt is no longer "
    "so. The loop must detect it, alert, retrain, and promote a better model through shadow and "
    "canary.",
    Scenario.COLD: "Winter comes: the inputs shift, the model is still right. The loop must "
    "report the drift and promote nothing.",
    Scenario.SENSOR_FAULT: "One sensor is miscalibrated. The loop must name it and page a person; "
    "a model must not be trained on broken data.",
    Scenario.BAD_CANDIDATE: "A broken model is offered. The canary must be judged a regression and "
    "rolled back, and the stable model left alone.",
    Scenario.NONE: "Nothing happens, and nothing may be alarmed or retrained.",
}

_CAPTIONS = {
    "accuracy": "Share of windows classified rightly, by the model version that answered, as the "
    "client counts it from the truth that only it knows. The shaded intervals take uploads, not "
    "windows, as independent. The grey band is what counts as recovered.",
    "traffic": "Which version answered, and the weight that the controller gave to stable. The "
    "requests of one vehicle stay on one arm, so the share follows vehicles, not requests.",
    "drift": "Each feature's score over its threshold, which was calibrated on contiguous blocks "
    "of the model's own reference. Above the line is above the threshold; an alarm also needs "
    "evidence over several windows and a large effect. The six highest are named.",
    "timeline": "Incidents are open for as long as their bars; rollouts change colour with their "
    "state: shadow, canary steps, promoted or rolled back.",
}

_LONG = 160
#: Evidence that only a machine reads; it is in report.json.
_IDENTIFIERS = ("identity", "count", "actor", "decision_id", "first_feature", "starts_at")


def render(story: Story, pictures: Mapping[str, bytes]) -> str:
    """The page, with the pictures inside it."""
    facts = story.facts
    verdict = (
        '<span class="verdict good">as expected</span>'
        if story.ok
        else '<span class="verdict bad">not as expected</span>'
    )
    title = f"Coalmine demo: {facts.scenario.value}"
    seconds = story.ended - story.started
    parts = [
        f"<h1>{escape(title)} {verdict}</h1>",
        f"<p>seed {facts.seed} · {seconds:.0f} s · {facts.requests} requests"
        f"{' · ' + escape(story.machine) if story.machine else ''}</p>",
        f'<p class="lead">{escape(_WORLD[facts.scenario])}</p>',
        _checks(story),
        _accuracy(story),
        *(_figure(name, content) for name, content in pictures.items()),
        _timeline(story),
        _versions(story),
        _numbers(story),
    ]
    return page(title, parts)


def _figure(name: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    caption = escape(_CAPTIONS[name])
    return (
        f'<figure><img alt="{escape(name)} over time" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _checks(story: Story) -> str:
    rows = [
        [
            '<span class="yes">✓</span>' if check.ok else '<span class="no">✗</span>',
            escape(check.name),
            escape(check.found),
        ]
        for check in story.checks
    ]
    return "<h2>What had to be true</h2>" + table(["", "expectation", "found"], rows, fit=True)


def _accuracy(story: Story) -> str:
    def shown(accuracy: Accuracy) -> list[str]:
        if not accuracy.windows:
            return ["–", "–", "0", "0"]
        return [
            f"{accuracy.value:.2%}",
            f"{accuracy.low:.2%} – {accuracy.high:.2%}",
            str(accuracy.windows),
            str(accuracy.requests),
        ]

    rows = [[phase.value, *shown(story.facts.accuracy[phase])] for phase in Phase]
    head = ["phase", "accuracy", "95 % interval", "windows", "requests"]
    return "<h2>Accuracy</h2>" + table(head, rows, numbers=" nnnn")


def _timeline(story: Story) -> str:
    rows = [
        [
            f"{story.offset(event.time):.1f}",
            f'<span class="kind">{escape(event.kind)}</span>',
            escape(event.text) + _evidence(event.evidence),
        ]
        for event in sorted(story.history.events, key=lambda e: e.time)
    ]
    return "<h2>Decisions and their evidence</h2>" + table(
        ["s", "who", "what"], rows, numbers="n", fit=True
    )


def _evidence(evidence: Mapping[str, Any]) -> str:
    """What a decision rests on: the grounds in words, all the rest folded away."""
    if not evidence:
        return ""
    lines = "".join(f'<br><span class="kind">{escape(line)}</span>' for line in _grounds(evidence))
    rest = {
        key: value
        for key, value in evidence.items()
        if key not in _IDENTIFIERS and value not in (None, "")
    }
    flat = all(not isinstance(value, dict | list | tuple) for value in rest.values())
    brief = ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in rest.items())
    if flat and len(brief) <= _LONG:
        return lines + (f'<br><span class="kind">{escape(brief)}</span>' if brief else "")
    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    text = orjson.dumps(dict(evidence), option=options, default=str).decode()
    return f"{lines}<details><summary>evidence</summary><pre>{escape(text)}</pre></details>"


def _grounds(evidence: Mapping[str, Any]) -> list[str]:
    """The reasons of a verdict or a run, and the features of an incident, a line each."""
    verdict = evidence.get("verdict")
    if isinstance(verdict, Mapping):
        kind = str(verdict.get("kind", "")).replace("_", " ")
        return [f"{kind}: {reason}" for reason in verdict.get("reasons", ())]
    if isinstance(evidence.get("reasons"), list | tuple):
        return [str(reason) for reason in evidence["reasons"]]
    return [
        f"{feature['name']}: {feature['statistic']} {_short(feature['score'])}, "
        f"threshold {_short(feature['threshold'])}, {feature['direction']}"
        for feature in evidence.get("features", ())
        if isinstance(feature, Mapping)
    ]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _versions(story: Story) -> str:
    rows = []
    for version in story.versions:
        accuracy = version.get("accuracy")
        times = [version.get(key) for key in ("first_answer", "last_answer")]
        span = " – ".join(f"{story.offset(at):.0f}" for at in times if at is not None)
        rows.append(
            [
                escape(str(version["version"])),
                escape(str(version.get("fate", ""))),
                escape(", ".join(version.get("arms", ()))),
                span or "–",
                str(version.get("requests", 0)),
                "–" if accuracy is None else f"{accuracy:.2%}",
                f"<code>{escape(str(version.get('digest') or '–'))[:19]}</code>",
            ]
        )
    head = ["version", "became", "arms", "answered (s)", "requests", "accuracy", "digest"]
    return "<h2>Model versions</h2>" + table(head, rows, numbers="   nnn ")


def _numbers(story: Story) -> str:
    facts = story.facts
    stages = ", ".join(f"{span.name} {span.seconds:.0f} s" for span in story.stages)
    rows = [
        ["requests", f"{facts.requests} ({facts.failed_requests} failed, "
                     f"{facts.resent_requests} resent because nobody answered)"],
        ["records", f"{facts.records_emitted} emitted, {facts.records_in_log} in the log, "
                    f"{facts.records_dropped} dropped"],
        ["labels", f"{facts.labels_delivered} of {facts.labels_due} delivered, late"],
        ["weights", f"gateway and controller compared {facts.weight_samples} times, "
                    f"{facts.weight_mismatches} disagreements"],
        ["stages", stages],
    ]  # fmt: skip
    cells = [[name, escape(text)] for name, text in rows]
    failures = "".join(f"<li>{escape(text)}</li>" for text in story.failures)
    listed = f"<h2>Failed requests</h2><ul>{failures}</ul>" if failures else ""
    again = f"coalmine demo --scenario {facts.scenario.value} --seed {facts.seed}"
    return (
        "<h2>Numbers</h2>" + table(["", ""], cells, fit=True) + listed
        + f"<h2>Again</h2><p><code>{escape(again)}</code></p>"
    )  # fmt: skip
