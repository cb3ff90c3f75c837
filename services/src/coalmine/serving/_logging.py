"""A model server's log: one line per event, on standard error."""

from __future__ import annotations

import logging

__all__ = ["configure_logging"]


def configure_logging() -> None:
    """Log ours from INFO, everyone else's from WARNING."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("coalmine").setLevel(logging.INFO)
