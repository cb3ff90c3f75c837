"""The shipped rules and configurations, judged by Prometheus' own tools where installed."""

from __future__ import annotations

import io
import json
import logging
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from coalmine.incidents import ALERT_NAMES
from coalmine.observability import (
    ScrapeTarget,
    alertmanager_config,
    configure_logging,
    prometheus_config,
    rules_file,
)

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not on the PATH")

SERIES = (
    'coalmine_incident_open{{model_name="ev",revision="3",monitor="m",kind="{kind}",feature="{f}"}}'
)


def promtool(*arguments: str) -> str:
    assert PROMTOOL is not None
    done = subprocess.run((PROMTOOL, *arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_kind_of_incident_has_its_alert() -> None:
    group, *_ = yaml.safe_load(rules_file().read_text())["groups"]
    rules = {rule["alert"]: rule["expr"] for rule in group["rules"]}
    assert set(rules) == set(ALERT_NAMES.values())
    for kind, alert in ALERT_NAMES.items():
        assert f'kind="{kind}"' in rules[alert]


@needs_promtool
def test_the_rules_fire_and_do_not_fire(tmp_path: Path) -> None:
    drift, quality = (
        SERIES.format(kind="drift", f="soc"),
        SERIES.format(kind="data_quality", f=""),
    )
    accuracy = SERIES.format(kind="accuracy", f="")
    tests = {
        "rule_files": [str(rules_file())],
        "evaluation_interval": "1s",
        "tests": [
            {
                "interval": "1s",
                "input_series": [
                    # Opens at 5 s, is away (a restarted monitor) from 10 to 20 s, closes at 21 s.
                    {"series": drift, "values": "0x4 1x4 stale _x9 1 0x100"},
                    {"series": accuracy, "values": "0x200"},
                    {"series": quality, "values": "1x5 stale _x100"},
                    {
                        "series": drift.replace("_open", "_onset_timestamp_seconds"),
                        "values": "_x4 1795258428.5x4",
                    },
                ],
                "alert_rule_test": [
                    _alert("CoalmineDrift", "4s", None),
                    _alert("CoalmineDrift", "5s", "drift"),
                    _alert("CoalmineDrift", "15s", "drift"),
                    _alert("CoalmineDrift", "23s", None),
                    _alert("CoalmineAccuracyLoss", "100s", None),
                    _alert("CoalmineDataQuality", "3s", "data_quality"),
                    _alert("CoalmineDataQuality", "60s", None),
                ],
            }
        ],
    }
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump(tests))
    promtool("test", "rules", str(file))


@needs_promtool
def test_a_monitor_that_judges_nothing_is_an_alert(tmp_path: Path) -> None:
    """At 20 minutes: one is behind, one has nothing to judge, one failed once, another always, and
    cannot tell its lag, and one is not there at all."""
    behind = '{model_name="ev",revision="3",monitor="drift"}'
    idle = behind.replace("drift", "accuracy")
    failing = behind.replace('"ev"', '"fails"')
    series = {
        f"coalmine_last_evaluation_timestamp_seconds{behind}": "0+60x5 300x30",
        f"coalmine_monitor_lag_batches{behind}": "0x5 7x30",
        f"coalmine_last_evaluation_timestamp_seconds{idle}": "0+60x5 300x30",
        f"coalmine_monitor_lag_batches{idle}": "0x35",
        f"coalmine_monitor_errors_total{idle}": "0x15 1x20",
        f"coalmine_last_evaluation_timestamp_seconds{failing}": "0+60x5 300x30",
        f"coalmine_monitor_lag_batches{failing}": "0x35",
        f"coalmine_monitor_errors_total{failing}": "0x5 0+12x30",
    }
    _, group, _ = yaml.safe_load(rules_file().read_text())["groups"]
    described = {rule["alert"]: rule["annotations"]["description"] for rule in group["rules"]}
    stale = {
        "exp_labels": {"model_name": "ev", "monitor": "drift", "severity": "critical"},
        "exp_annotations": {
            "summary": "ev: the drift monitor has records to judge and has judged none for ten"
            " minutes",
            "description": described["CoalmineMonitorStale"],
        },
    }
    fails = {
        "exp_labels": {**stale["exp_labels"], "model_name": "fails"},
        "exp_annotations": {
            **stale["exp_annotations"],
            "summary": stale["exp_annotations"]["summary"].replace("ev:", "fails:"),
        },
    }
    absent = {
        "exp_labels": {"monitor": "data_quality", "severity": "critical"},
        "exp_annotations": {
            "summary": "no data_quality monitor has been heard of for ten minutes",
            "description": described["CoalmineMonitorAbsent"],
        },
    }
    expected = (
        ("CoalmineMonitorStale", "14m", []),
        ("CoalmineMonitorStale", "20m", [stale, fails]),
        ("CoalmineMonitorAbsent", "4m", []),
        ("CoalmineMonitorAbsent", "20m", [absent]),
    )
    tests = {
        "rule_files": [str(rules_file())],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values} for name, values in series.items()
                ],
                "alert_rule_test": [
                    {"alertname": name, "eval_time": at, "exp_alerts": alerts}
                    for name, at, alerts in expected
                ],
            }
        ],
    }
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump(tests))
    promtool("test", "rules", str(file))


@needs_promtool
def test_a_stopped_and_a_stuck_retrainer_are_alerts(tmp_path: Path) -> None:
    """Of three services one stopped and was reset, one is stuck, and one is well and retraining."""
    stopped, deadline = (
        "coalmine_retrain_stopped",
        "coalmine_retrain_run_deadline_timestamp_seconds",
    )
    names = {name: f'{{model_name="{name}"}}' for name in ("broken", "hung", "well")}
    series = {
        # Open from 3 m, away (the retrainer restarts) from 6 to 7 m, reset by a person at 11 m.
        stopped + names["broken"]: "0x2 1x2 stale _ 1x3 0x40",
        stopped + names["hung"]: "0x50",
        stopped + names["well"]: "0x50",
        # To be over at 10 m; it is not, till the retrainer is restarted at 20 m.
        deadline + names["hung"]: "0x4 600x14 0x30",
        # Runs, one after the other, each within its time.
        deadline + names["well"]: "0x4 600x4 0x2 1500x9 0x2 2400x20",
        deadline + names["broken"]: "0x50",
    }
    *_, group = yaml.safe_load(rules_file().read_text())["groups"]
    rules = {rule["alert"]: rule["annotations"] for rule in group["rules"]}

    def alert(name: str, at: str, model: str | None) -> dict[str, object]:
        expected = []
        if model is not None:
            summary = rules[name]["summary"].replace("{{ $labels.model_name }}", model)
            labels = {"model_name": model, "severity": "critical"}
            annotations = {**rules[name], "summary": summary}
            expected = [{"exp_labels": labels, "exp_annotations": annotations}]
        return {"alertname": name, "eval_time": at, "exp_alerts": expected}

    tests = {
        "rule_files": [str(rules_file())],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values} for name, values in series.items()
                ],
                "alert_rule_test": [
                    alert("CoalmineRetrainingStopped", "2m", None),
                    alert("CoalmineRetrainingStopped", "4m", "broken"),
                    alert("CoalmineRetrainingStopped", "7m", "broken"),
                    alert("CoalmineRetrainingStopped", "13m", None),
                    alert("CoalmineRetrainingStuck", "14m", None),
                    alert("CoalmineRetrainingStuck", "17m", "hung"),
                    alert("CoalmineRetrainingStuck", "22m", None),
                ],
            }
        ],
    }
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump(tests))
    promtool("test", "rules", str(file))


def _alert(name: str, at: str, kind: str | None) -> dict[str, object]:
    expected = []
    if kind is not None:
        feature = {"feature": "soc"} if kind == "drift" else {}
        severity = "warning" if kind == "drift" else "critical"
        labels = {
            "model_name": "ev", "revision": "3", "monitor": "m", "kind": kind,
            "severity": severity, **feature,
        }  # fmt: skip
        group, *_ = yaml.safe_load(rules_file().read_text())["groups"]
        rule = next(rule for rule in group["rules"] if rule["alert"] == name)
        expected = [{"exp_labels": labels, "exp_annotations": _render(rule, feature)}]
    return {"eval_time": at, "alertname": name, "exp_alerts": expected}


def _render(rule: dict[str, dict[str, str]], feature: dict[str, str]) -> dict[str, str]:
    text = rule["annotations"]["summary"]
    # The quality incident's series is without an onset, as from a monitor of another make.
    onset = "1795258428.500" if feature else ""
    named = f": {feature['feature']}" if feature else ""
    text = text.replace("{{ with $labels.feature }}: {{ . }}{{ end }}", named)
    text = text.replace("{{ $labels.model_name }} {{ $labels.revision }}", "ev 3")
    assert "{{" not in text
    return {**rule["annotations"], "summary": text, "onset": onset}


@needs_promtool
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "prometheus.yaml"
    targets = [ScrapeTarget("drift", "127.0.0.1:8081", "/drift/metrics")]
    file.write_text(prometheus_config(targets, alertmanager="127.0.0.1:8087"))
    assert "SUCCESS" in promtool("check", "config", str(file))


def test_alertmanager_tells_of_the_end_too() -> None:
    config = yaml.safe_load(alertmanager_config("http://127.0.0.1/retrainer/v1/alerts"))
    (receiver,) = config["receivers"]
    assert receiver["name"] == config["route"]["receiver"]
    assert receiver["webhook_configs"][0]["send_resolved"] is True


def test_logs_are_json_lines() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        configure_logging(stream=stream)
        logging.getLogger("coalmine.x").info("alert %s", "firing", extra={"revision": "3"})
        logging.getLogger("httpx").info("a line for each request")
        try:
            raise ValueError("boom")
        except ValueError:
            logging.getLogger("coalmine.x").exception("it failed")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert first["message"] == "alert firing"
    assert (first["level"], first["logger"], first["revision"]) == ("info", "coalmine.x", "3")
    assert first["time"].endswith("+00:00")
    assert "ValueError: boom" in second["traceback"]


def test_the_chart_ships_the_same_rules() -> None:
    chart = Path(__file__).parents[3] / "charts" / "rules" / "coalmine.yaml"
    assert chart.read_text() == rules_file().read_text()
