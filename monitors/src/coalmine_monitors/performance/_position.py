"""Where the performance monitor is: the small part of its state, made anew by every step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from coalmine_monitors._versions import StableVersion, batch_arm, batch_version, newest_time

__all__ = ["Position"]

#: An arm that has been silent longer than this, in record time, holds up nobody's evidence.
SILENT = 3.0


@dataclass(frozen=True)
class Position:
    """The part of the state that is neither totals nor about a reign."""

    stable: StableVersion = StableVersion()
    evaluated_to: float = 0.0
    newest: Mapping[str, float] = field(default_factory=dict)
    """Newest record time by arm and version, as JSON keys."""

    tidied: float = 0.0

    def after(self, batch: pa.RecordBatch) -> Position:
        """With a batch counted."""
        key = json.dumps([batch_arm(batch), batch_version(batch)])
        newest = {**self.newest, key: max(newest_time(batch), self.newest.get(key, 0.0))}
        last = max(newest.values())
        active = {key: time for key, time in newest.items() if time >= last - SILENT}
        return replace(self, stable=self.stable.after(batch), newest=active)

    @property
    def complete_to(self) -> float:
        """Record time up to which every arm that sends has been heard."""
        return min(self.newest.values(), default=0.0)

    def state(self) -> dict[str, Any]:
        """Everything that `restored` needs, for JSON."""
        return {
            "stable": asdict(self.stable),
            "evaluated_to": self.evaluated_to,
            "newest": dict(self.newest),
            "tidied": self.tidied,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Position:
        """The position that gave `state`; the first one without."""
        if not state:
            return cls()
        return cls(
            stable=StableVersion(**state["stable"]),
            evaluated_to=state["evaluated_to"],
            newest=state["newest"],
            tidied=state["tidied"],
        )
