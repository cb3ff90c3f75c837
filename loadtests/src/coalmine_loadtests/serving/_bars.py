"""What Coalmine promises about its speed, looked up in what was measured; never a fixed result.

"Stock KServe" is the better of its configurations, "the best peer" the best of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Literal

from coalmine_loadtests.serving._plan import IN_PROCESS
from coalmine_loadtests.serving._samples import Measured, Results

__all__ = ["BARS", "CEILINGS", "Bar", "Verdict", "judge", "peers_of", "stock"]

_OURS, _UNRECORDED, _STOCK = "coalmine", "coalmine-unrecorded", "kserve"
_TRITON_BATCHED = "triton-batched"
CEILINGS = {IN_PROCESS, "nginx"}
_MB = "MB"


@dataclass(frozen=True, slots=True)
class Bar:
    """A number, and which side of `limit` it has to be on; `wanted` ones are aims beyond it."""

    text: str
    measure: Callable[[Results], float | None]
    limit: float
    side: Literal["at least", "at most", "under"] = "at least"
    unit: str = "x"
    wanted: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """`measured` is None, and `passed` too, where a part of it was not measured."""

    bar: Bar
    measured: float | None

    @property
    def passed(self) -> bool | None:
        """Whether the bar is cleared."""
        if self.measured is None:
            return None
        if self.bar.side == "at least":
            return self.measured >= self.bar.limit
        if self.bar.side == "at most":
            return self.measured <= self.bar.limit
        return self.measured < self.bar.limit

    @property
    def word(self) -> str:
        """`pass`, `FAIL`, `short` (of what is only wanted), or `not measured`."""
        if self.passed is None:
            return "not measured"
        return "pass" if self.passed else ("short" if self.bar.wanted else "FAIL")


def judge(results: Results) -> list[Verdict]:
    """Every bar, in the order they are told."""
    return [Verdict(bar, bar.measure(results)) for bar in BARS]


def stock(results: Results) -> list[str]:
    """The configurations of stock KServe."""
    return [name for name in results.servers() if name.partition("-")[0] == _STOCK]


def peers_of(results: Results) -> list[str]:
    """Every server that is neither ours nor a ceiling."""
    return [
        name
        for name in results.servers()
        if name.partition("-")[0] != _OURS and name not in CEILINGS
    ]


def _all(results: Results, servers: Iterable[str], cell: str) -> Iterator[Measured]:
    for server in servers:
        if (measured := results.measured(server, cell)) is not None:
            yield measured


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _rate(results: Results, server: str, cell: str) -> float | None:
    measured = results.measured(server, cell)
    return None if measured is None else measured.rows_per_s


def _best_rate(results: Results, servers: Iterable[str], cell: str) -> float | None:
    return max((m.rows_per_s for m in _all(results, servers, cell)), default=None)


def _over_stock(cell: str) -> Callable[[Results], float | None]:
    return lambda r: _ratio(_rate(r, _OURS, cell), _best_rate(r, stock(r), cell))


def _over_best(cell: str) -> Callable[[Results], float | None]:
    return lambda r: _ratio(_rate(r, _OURS, cell), _best_rate(r, peers_of(r), cell))


def _over(server: str, cell: str) -> Callable[[Results], float | None]:
    return lambda r: _ratio(_rate(r, _OURS, cell), _rate(r, server, cell))


def _of_in_process(cell: str, call: str) -> Callable[[Results], float | None]:
    return lambda r: _ratio(_rate(r, _OURS, cell), _rate(r, IN_PROCESS, call))


def _cell_over_cell(cell: str, other: str) -> Callable[[Results], float | None]:
    return lambda r: _ratio(_rate(r, _OURS, cell), _rate(r, _OURS, other))


def _time(quantile: Literal["p50_ms", "p99_ms"], cell: str) -> Callable[[Results], float | None]:
    """Ours over stock KServe's."""

    def of(results: Results) -> float | None:
        ours = results.measured(_OURS, cell)
        theirs = [getattr(m, quantile) for m in _all(results, stock(results), cell)]
        mine = None if ours is None else getattr(ours, quantile)
        return _ratio(mine, min(theirs, default=None))

    return of


def _speedup(cell: str) -> Callable[[Results], float | None]:
    times = _time("p50_ms", cell)
    return lambda r: _ratio(1.0, times(r))


def _cost_of_records(cell: str) -> Callable[[Results], float | None]:
    def of(results: Results) -> float | None:
        ratio = _over(_UNRECORDED, cell)(results)
        return None if ratio is None else 100 * (1 - ratio)

    return of


def _lost_records(results: Results) -> float | None:
    """Percent of all rows that were to be recorded, batches of 1,024 rows at full load included."""
    emitted = dropped = 0.0
    for start in results.of_server(_OURS):
        if "records_emitted" in start.account:
            emitted += start.account["records_emitted"]
            dropped += start.account.get("records_dropped", 0.0)
    return _ratio(100 * dropped, emitted)


def _worst_start(value: Literal["ready_s", "idle_rss_mb"]) -> Callable[[Results], float | None]:
    """The median of each model's starts; of these the worst."""

    def of(results: Results) -> float | None:
        by_model: dict[str, list[float]] = {}
        for start in results.of_server(_OURS):
            by_model.setdefault(start.model, []).append(getattr(start, value))
        return max((median(values) for values in by_model.values()), default=None)

    return of


def _growth(results: Results) -> float | None:
    return None if results.soak is None else float(results.soak["growth_mb"])


_JSON, _GRPC, _RECORDED = "mlp/json1_c64", "mlp/grpc1_c8m8", "records on: cost of"
_AT_8 = (
    "mlp/json1_c8", "mlp/grpc1_c8m1", "mlp/json64_c8", "mlp/bin64_c8", "mlp/bin1024_c8",
    "mlp/grpc1024_c8m1", "gbt/bin64_c8",
)  # fmt: skip

BARS: tuple[Bar, ...] = (
    Bar(f"{_JSON}: rate over stock KServe", _over_stock(_JSON), 6),
    Bar(f"{_JSON}: rate over stock KServe", _over_stock(_JSON), 8, wanted=True),
    Bar(f"{_JSON}: rate over batched Triton", _over(_TRITON_BATCHED, _JSON), 1, wanted=True),
    Bar(f"{_GRPC}: rate over stock KServe", _over_stock(_GRPC), 6),
    Bar(f"{_GRPC}: rate over batched Triton", _over(_TRITON_BATCHED, _GRPC), 1, wanted=True),
    *(Bar(f"{cell}: rate over the best peer", _over_best(cell), 1) for cell in _AT_8),
    *(
        Bar(f"{cell}: p99 over stock KServe's", _time("p99_ms", cell), 1 / 3, "under")
        for cell in ("mlp/json1_c8", "mlp/grpc1_c8m1")
    ),
    Bar("wide/bin1_c1: times faster than stock KServe (p50)", _speedup("wide/bin1_c1"), 20),
    Bar("wide/bin1_c4: times faster than stock KServe (p50)", _speedup("wide/bin1_c4"), 20),
    Bar(
        "wide/grpc1_c1m1: p50 over stock KServe's", _time("p50_ms", "wide/grpc1_c1m1"), 1, "at most"
    ),
    Bar("mlp/bin1024_c8: rate over stock KServe", _over_stock("mlp/bin1024_c8"), 14),
    *(
        Bar(
            f"{cell}: share of {call} in process", _of_in_process(cell, call), limit, "at least", ""
        )
        for cell, call, limit in (
            ("mlp/bin1024_c8", "mlp/call1024", 0.40),
            ("image/bin1_c4", "image/call1", 0.92),
            ("image/grpc1_c4m1", "image/call1", 0.92),
        )
    ),
    *(
        Bar(f"{cell}: share of {nop}", _cell_over_cell(cell, nop), 0.85, "at least", "")
        for cell, nop in (("gbt/json1_c64", "nop/json1_c64"), ("gbt/grpc1_c8m8", "nop/grpc1_c8m8"))
    ),
    *(
        Bar(f"{_RECORDED} {cell}", _cost_of_records(cell), 7, "under", "%")
        for cell in (_JSON, "mlp/json1_c8", _GRPC)
    ),
    Bar("records on: rows lost", _lost_records, 0, "at most", "%", wanted=True),
    Bar("memory: growth over the soak", _growth, 20, "at most", _MB),
    Bar("memory: RSS when idle, worst model", _worst_start("idle_rss_mb"), 350, "under", _MB),
    Bar("start: until ready, worst model", _worst_start("ready_s"), 3, "under", "s"),
)
