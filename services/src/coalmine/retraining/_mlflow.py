"""The one place that imports MLflow.

Its packages import each other in circles. Two threads that import them at once find half-made
modules, and the process keeps them for good; so the import is one thread's at a time, and whole.
"""

from __future__ import annotations

import logging
import os
import threading

_LOCK = threading.Lock()


def load_mlflow() -> None:
    """Import MLflow, quietly: no telemetry, progress bars, or a line per database migration."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with _LOCK:
        import mlflow.artifacts
        import mlflow.entities
        import mlflow.exceptions
        import mlflow.tracking  # noqa: F401  # it sets its loggers' levels when it is imported
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
