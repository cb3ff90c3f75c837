"""The records' account: what the servers have written against what the log holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalmine.records import spool_stats

__all__ = ["Account", "account_of"]


@dataclass(frozen=True, slots=True)
class Account:
    """Rows over all arms' spools, and rows in the log."""

    emitted: int = 0
    pending: int = 0
    dropped: int = 0
    in_log: int = 0

    @property
    def settled(self) -> bool:
        """Whether nothing is on its way any more."""
        return self.pending == 0 and self.in_log + self.dropped == self.emitted


def account_of(state: Path, stats: Any) -> Account:
    """The account from the spools below a state directory and the collector's statistics.

    The spools are read from disk: a server that was killed or retired still counts. Without
    statistics (None) the log holds what it has acknowledged to the spools.
    """
    spools = [spool_stats(path) for path in _spools(state)]
    acknowledged = sum(spool.acknowledged_rows for spool in spools)
    in_log = stats.get("rows", 0) if isinstance(stats, Mapping) else acknowledged
    return Account(
        emitted=sum(spool.emitted_rows for spool in spools),
        pending=sum(spool.pending_rows for spool in spools),
        dropped=sum(spool.dropped_rows for spool in spools),
        in_log=int(in_log),
    )


def _spools(state: Path) -> list[Path]:
    return [path for path in sorted((state / "spool").glob("*")) if path.is_dir()]
