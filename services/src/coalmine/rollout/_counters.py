"""From counters as they were scraped to what an arm answered in each block of time.

The increments are made here, from raw samples, and not by PromQL's `increase`: that one
extrapolates, takes the first value of a new series for no increment, and knows nothing of the other
series of the same server. What is not sure is left out:

- two scrapes further apart than a block (the target was down), a server's first scrape, and a
  scrape from which series are missing say nothing of the time between: the block has no data;
- a counter that became smaller means that the server was restarted: all its counters began at zero;
- a series that a server did not have at the scrape before, such as its first error, began at zero.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coalmine.rollout._measured import MeasuredBlock

__all__ = ["BUCKETS", "REQUESTS", "Sampled", "measured_blocks"]

#: What our servers count (`docs/serving.md`).
REQUESTS = "coalmine_requests_total"
BUCKETS = "coalmine_request_duration_seconds_bucket"
#: As the monitors count: who refuses what stable takes is no better than who fails.
_ERROR_STATUS = 400
#: Labels by which the series of one server differ; by all others, servers do.
_WITHIN = ("protocol", "status", "le", "__name__")

_Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One series: its name, labels, and values with their times (seconds since the epoch)."""

    name: str
    labels: Mapping[str, str]
    values: tuple[tuple[float, float], ...]


@dataclass(slots=True)
class _Counts:
    """Of one arm and version in one block."""

    requests: float = 0.0
    errors: float = 0.0
    buckets: dict[float, float] | None = None
    """Requests up to each edge in seconds; None: not known of each of its servers."""


def measured_blocks(
    series: Iterable[Sampled], *, block_s: float, until: float
) -> tuple[tuple[float, ...], tuple[MeasuredBlock, ...]]:
    """The edges of the latencies in microseconds, and the blocks that end at `until` or before."""
    servers: dict[_Labels, dict[float, dict[_Labels, float]]] = defaultdict(dict)
    edges: set[float] = set()
    for each in series:
        if each.name not in (REQUESTS, BUCKETS):
            continue
        server = _key(each.labels, but=_WITHIN)
        own = (*_key(each.labels), ("__name__", each.name))
        if each.name == BUCKETS:
            edges.add(float(each.labels["le"]))
        for time, value in each.values:
            if math.isfinite(value) and value >= 0:
                servers[server].setdefault(time, {})[own] = value
    found: dict[tuple[float, str, str], _Counts] = {}
    for server, scrapes in servers.items():
        labels = dict(server)
        if "revision" in labels and "arm" in labels:
            for block, counts in _blocks_of(scrapes, block_s=block_s).items():
                if block + block_s <= until:
                    key = (block, labels["revision"], labels["arm"])
                    _add(found.setdefault(key, _Counts(buckets={})), counts)
    bounds = tuple(sorted(edge for edge in edges if math.isfinite(edge)))
    blocks = (_measured(key, counts, bounds) for key, counts in sorted(found.items()))
    return tuple(bound * 1e6 for bound in bounds), tuple(blocks)


def _blocks_of(
    scrapes: Mapping[float, Mapping[_Labels, float]], *, block_s: float
) -> dict[float, _Counts]:
    """One server's increments, each in the block in which its interval ends."""
    blocks: dict[float, _Counts] = {}
    unsure: set[float] = set()
    times = sorted(scrapes)
    for before, after in itertools.pairwise(times):
        block = _block_of(after, block_s)
        added = _increments(scrapes[before], scrapes[after])
        if added is None or after - before > block_s:
            unsure |= {math.floor(before / block_s) * block_s, block}
        else:
            _add(blocks.setdefault(block, _Counts(buckets={})), _counted(added))
    # What was before the first scrape nobody knows; nor what will be after the last.
    unsure.add(_block_of(times[0], block_s))
    return {
        block: counts
        for block, counts in blocks.items()
        if block not in unsure and block + block_s <= times[-1]
    }


def _block_of(time: float, block_s: float) -> float:
    """The block of an interval that ends at this time: its own end belongs to it."""
    return (math.ceil(time / block_s) - 1) * block_s


def _increments(
    before: Mapping[_Labels, float], after: Mapping[_Labels, float]
) -> dict[_Labels, float] | None:
    """What each series grew by; None if series are missing from the later scrape."""
    if any(after[own] < value for own, value in before.items() if own in after):
        return dict(after)  # Restarted.
    if not before.keys() <= after.keys():
        return None
    return {own: value - before.get(own, 0.0) for own, value in after.items()}


def _counted(added: Mapping[_Labels, float]) -> _Counts:
    counts = _Counts()
    buckets: dict[float, float] = {}
    for own, value in added.items():
        labels = dict(own)
        if labels["__name__"] == BUCKETS:
            edge = float(labels["le"])
            buckets[edge] = buckets.get(edge, 0.0) + value
        else:
            counts.requests += value
            counts.errors += value if int(labels["status"]) >= _ERROR_STATUS else 0.0
    # The two are of one scrape. If they do not agree, a part of it is missing.
    whole = buckets.get(math.inf, 0.0) == counts.requests
    counts.buckets = buckets if whole else None
    return counts


def _add(counts: _Counts, more: _Counts) -> None:
    counts.requests += more.requests
    counts.errors += more.errors
    if counts.buckets is not None and more.buckets is not None:
        for edge, value in more.buckets.items():
            counts.buckets[edge] = counts.buckets.get(edge, 0.0) + value
    else:
        counts.buckets = None


def _measured(
    key: tuple[float, str, str], counts: _Counts, bounds: tuple[float, ...]
) -> MeasuredBlock:
    latency = None
    if counts.buckets is not None:
        upto = [counts.buckets.get(bound, 0.0) for bound in (*bounds, math.inf)]
        latency = tuple(round(b - a) for a, b in itertools.pairwise((0.0, *upto)))
        if min(latency) < 0:  # Servers with different buckets.
            latency = None
    time, version, arm = key
    return MeasuredBlock(
        time=time,
        version=version,
        arm=arm,
        requests=round(counts.requests),
        errors=round(counts.errors),
        latency_counts=latency,
    )


def _key(labels: Mapping[str, str], *, but: tuple[str, ...] = ("__name__",)) -> _Labels:
    return tuple(sorted((name, value) for name, value in labels.items() if name not in but))
