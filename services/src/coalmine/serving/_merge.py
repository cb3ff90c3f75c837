"""Metrics of several processes as if they were one's.

Families are plain data here, as they cross a socket: name, type, help, and samples of a name,
labels and a value. Counters and histograms are summed. So are gauges, which count what is there,
except those that say what something *is*: there the processes agree, and the largest is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

__all__ = ["Family", "counts_only", "merged"]

_Key = tuple[str, tuple[tuple[str, str], ...]]
#: Gauges of which a second process is not a second thing.
_SAME = ("_info", "_state")
_DEVICE = "coalmine_gpu_"


class Family(NamedTuple):
    """One metric with all its label sets."""

    name: str
    kind: str
    """Prometheus' type: counter, gauge, histogram, ..."""

    text: str
    samples: list[tuple[str, dict[str, str], float]]

    @classmethod
    def of(cls, data: list[Any]) -> Family:
        """A family that has been JSON."""
        name, kind, text, samples = data
        return cls(name, kind, text, [(each, labels, value) for each, labels, value in samples])


def merged(processes: Iterable[list[Family]]) -> list[Family]:
    """The families of all processes, each once."""
    heads: dict[str, Family] = {}
    values: dict[str, dict[_Key, tuple[dict[str, str], float]]] = {}
    for families in processes:
        for family in families:
            heads.setdefault(family.name, family)
            known = values.setdefault(family.name, {})
            for name, labels, value in family.samples:
                key = (name, tuple(sorted(labels.items())))
                if key in known:
                    value = _join(family, name, known[key][1], value)
                known[key] = (labels, value)
    return [
        Family(
            name, head.kind, head.text, [(key[0], *found) for key, found in values[name].items()]
        )
        for name, head in heads.items()
    ]


def counts_only(families: list[Family]) -> list[Family]:
    """What remains true of a process that has ended: what it counted."""
    return [family for family in families if family.kind in ("counter", "histogram", "summary")]


def _join(family: Family, name: str, one: float, other: float) -> float:
    if name.endswith("_created"):
        return min(one, other)
    if family.kind in ("gauge", "info", "unknown") and (
        family.name.endswith(_SAME) or family.name.startswith(_DEVICE)
    ):
        return max(one, other)
    return one + other
