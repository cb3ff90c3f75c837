"""The shipped alert rules, and configurations of Prometheus and Alertmanager around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

__all__ = ["ScrapeTarget", "alertmanager_config", "prometheus_config", "rules_file"]


@dataclass(frozen=True, slots=True)
class ScrapeTarget:
    """Something with metrics: a job's name, `host:port`, and the path there."""

    job: str
    address: str
    path: str = "/metrics"


def rules_file() -> Path:
    """The alert rules, as Prometheus reads them."""
    return Path(__file__).with_name("rules.yaml")


def prometheus_config(
    targets: Sequence[ScrapeTarget], *, alertmanager: str, interval: str = "1s"
) -> str:
    """Prometheus' configuration: scrape the targets, evaluate the rules, tell Alertmanager.

    `alertmanager` is its `host:port`; `interval` is between two scrapes and two evaluations.
    """
    config = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(rules_file())],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {
                "job_name": target.job,
                "metrics_path": target.path,
                "static_configs": [{"targets": [target.address]}],
            }
            for target in targets
        ],
    }
    return yaml.safe_dump(config, sort_keys=False)


def alertmanager_config(webhook: str, *, group_wait: str = "1s") -> str:
    """Alertmanager's configuration: one webhook for all alerts, one notification an incident."""
    labels = ["alertname", "model_name", "revision", "incident"]
    config = {
        "route": {
            "receiver": "coalmine",
            "group_by": labels,
            "group_wait": group_wait,
            "group_interval": group_wait,
            "repeat_interval": "5m",
        },
        "receivers": [
            {"name": "coalmine", "webhook_configs": [{"url": webhook, "send_resolved": True}]}
        ],
    }
    return yaml.safe_dump(config, sort_keys=False)
