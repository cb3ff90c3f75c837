"""How a person and a machine see what runs: logging, the alert rules, what Prometheus scrapes.

The rules here are the canonical ones: the local stack, the tests (promtool) and the Helm chart all
use this file.
"""

from coalmine.observability._logging import configure_logging
from coalmine.observability._prometheus import (
    ScrapeTarget,
    alertmanager_config,
    prometheus_config,
    rules_file,
)

__all__ = [
    "ScrapeTarget",
    "alertmanager_config",
    "configure_logging",
    "prometheus_config",
    "rules_file",
]
