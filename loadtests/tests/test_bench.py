"""The benchmark against a real server: right answers are required, ratios are of one run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from coalmine_loadtests._payloads import Payload, battery_payloads
from coalmine_loadtests.bench import (
    BenchOptions,
    Case,
    Target,
    in_process_target,
    measure,
    run_bench,
    url_target,
)
from coalmine_loadtests.bench._load import Ask, Labels
from coalmine_transformers.battery import BatteryTransformer

from .conftest import Served

QUICK = {"seconds": 0.2, "rounds": 1}


def bench(options: BenchOptions) -> tuple[int, str]:
    output = StringIO()
    code = run_bench(options, console=Console(file=output, width=120))
    return code, output.getvalue()


async def test_all_protocols_answer_as_the_model_in_process(served: Served) -> None:
    payloads = battery_payloads(8, model="ev-battery", windows=4)
    peer = in_process_target(served.model, BatteryTransformer())
    protocols = ("v1", "v2", "grpc")
    over = [url_target("server", served.url, protocol=p, model="ev-battery") for p in protocols]
    results = await measure([peer, *over], payloads, case=Case(4, 2), seconds=0.3, rounds=1)
    assert [result.protocol for result in results] == ["-", "v1", "v2", "grpc"]
    assert results[0].ratio == 1.0
    for result in results[1:]:
        assert 0 < result.ratio < 1
        assert result.errors == 0
        assert 0 < result.p50_ms <= result.p99_ms


def test_a_whole_benchmark_of_a_running_server(served: Served, tmp_path: Path) -> None:
    target = tmp_path / "bench.json"
    options = BenchOptions(
        url=served.url, model=served.model, windows=(1, 8), connections=(2,), json=target, **QUICK
    )  # type: ignore[arg-type]
    code, text = bench(options)
    assert code == 0, text
    assert "in process" in text
    content = json.loads(target.read_text("utf-8"))
    assert len(content["results"]) == 2 * 4
    assert {row["windows"] for row in content["results"]} == {1, 8}
    assert content["machine"]["cores"] >= 1


@pytest.mark.slow
def test_a_benchmark_that_starts_its_own_server_and_gateway() -> None:
    code, text = bench(BenchOptions(windows=(2,), connections=(2,), **QUICK))  # type: ignore[arg-type]
    assert code == 0, text
    assert "gateway" in text


async def test_wrong_answers_are_not_measured() -> None:
    async def ask(payload: Payload) -> Labels:
        return np.zeros(1, np.int64)

    async def lie(payload: Payload) -> Labels:
        return np.ones(1, np.int64)

    def target(name: str, ask: Ask) -> Target:
        @asynccontextmanager
        async def connect() -> AsyncIterator[Ask]:
            yield ask

        return Target(name, "v1", connect)

    payloads = battery_payloads(2, model="m", windows=1)
    with pytest.raises(ValueError, match="liar over v1 answers \\[1\\] where"):
        await measure(
            [target("peer", ask), target("liar", lie)],
            payloads,
            case=Case(1, 1),
            seconds=0.1,
            rounds=1,
        )


async def test_a_server_that_dies_under_load_is_counted_not_hung() -> None:
    answered = 0

    async def ask(payload: Payload) -> Labels:
        nonlocal answered
        answered += 1
        if answered > 60:
            raise ConnectionResetError
        return np.zeros(1, np.int64)

    @asynccontextmanager
    async def connect() -> AsyncIterator[Ask]:
        yield ask

    dying = Target("server", "v1", connect)
    payloads = battery_payloads(2, model="m", windows=1)
    (result,) = await measure([dying], payloads, case=Case(1, 4), seconds=0.2, rounds=1)
    assert 0 < result.errors < 200


def test_a_url_needs_the_model_that_is_served_there() -> None:
    code, text = bench(BenchOptions(url="http://127.0.0.1:9"))
    assert code == 2
    assert "--model" in text


def test_a_server_that_is_not_there(served: Served) -> None:
    options = BenchOptions(url="http://127.0.0.1:9", model=served.model, windows=(1,), **QUICK)  # type: ignore[arg-type]
    code, text = bench(options)
    assert code == 2
    assert "refused" in text.lower() or "connect" in text.lower()
