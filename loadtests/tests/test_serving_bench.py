"""The whole harness, with real servers from this environment."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from coalmine_loadtests.serving import (
    SERVERS,
    Environments,
    Results,
    ServingBenchError,
    ServingBenchOptions,
    run_serving_bench,
)
from coalmine_loadtests.serving._environments import AbsentError
from coalmine_loadtests.serving._load import missing_tools

needs_tools = pytest.mark.skipif(bool(missing_tools()), reason=missing_tools())
needs_cores = pytest.mark.skipif(
    not {0, 1} <= os.sched_getaffinity(0), reason="needs the cores 0 and 1"
)
HERE = Environments(pythons={"kserve": Path(sys.executable)})


def measure(options: ServingBenchOptions, names: list[str]) -> tuple[Results, str]:
    output = StringIO()
    console = Console(file=output, width=200)
    servers = [SERVERS[name] for name in names]
    before = os.sched_getaffinity(0)
    results = run_serving_bench(options, servers, console=console, environments=HERE)
    assert os.sched_getaffinity(0) == before
    return results, output.getvalue()


@needs_tools
@needs_cores
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_coalmine_beside_stock_kserve(tmp_path: Path) -> None:
    cells = ("mlp/json1_c8", "mlp/bin64_c8", "mlp/grpc1_c8m8", "wide/grpc1_c1m1", "mlp/call64")
    options = ServingBenchOptions(
        cells=cells, seconds=0.5, repeats=1, output=tmp_path / "r.json", soak=500
    )
    names = ["coalmine", "kserve-quiet", "nginx"]
    results, text = measure(options, names)
    assert results.absent == {}
    assert [sample.told for sample in results.samples if sample.told] == []
    for name in ("coalmine", "kserve-quiet"):
        for cell in cells[:4]:
            measured = results.measured(name, cell)
            assert measured is not None, (name, cell)
            assert measured.errors == 0
            assert measured.rows_per_s > 0
            assert 0 < measured.p50_ms <= measured.p99_ms
            assert measured.cpu_us > 0
    ours = results.of_server("coalmine")
    assert {s.model for s in ours} == {"mlp", "wide"}
    assert all(s.ready_s > 0 and s.idle_rss_mb >= s.idle_pss_mb > 10 for s in ours)
    assert all(s.account["records_emitted"] > 0 for s in ours)
    assert results.soak is not None
    assert results.soak["requests"] >= 500
    assert "rate over stock KServe" in text
    # Taken up again there is nothing left to measure.
    again, _ = measure(replace(options, resume=True), names)
    assert again.samples == results.samples


@needs_tools
@needs_cores
def test_a_server_that_does_not_start_is_absent_with_its_reason(tmp_path: Path) -> None:
    broken = replace(
        SERVERS["nginx"],
        command=lambda launch: [sys.executable, "-c", "raise SystemExit('no licence today')"],
    )
    options = ServingBenchOptions(
        peers=("nginx",), seconds=0.5, repeats=2, output=tmp_path / "r.json", soak=0
    )
    output = StringIO()
    results = run_serving_bench(options, [broken], console=Console(file=output, width=200))
    assert results.samples == []
    assert "no licence today" in results.absent["nginx"]
    assert "nginx is absent" in output.getvalue()
    assert Results.read(tmp_path / "r.json").absent == results.absent


def test_a_peer_that_cannot_be_installed_is_absent(tmp_path: Path) -> None:
    environments = Environments(directory=tmp_path)
    with pytest.raises(AbsentError, match=r"bench-nobody\.txt is missing"):
        environments.versions("nobody", ())
    with pytest.raises(AbsentError, match="broken"):
        Environments(pythons={"x": Path(sys.executable)}).versions("x", ("no-such-package",))


def test_what_is_not_installed_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServingBenchError, match=r"h2load .* \(Debian: apt-get install nghttp2"):
        measure(ServingBenchOptions(output=tmp_path / "r.json"), ["nginx"])


@needs_tools
@needs_cores
def test_a_ceiling_that_is_not_installed_is_absent(tmp_path: Path) -> None:
    absent = replace(SERVERS["nginx"], programs={"no-such-program": "no-such-package"})
    options = ServingBenchOptions(peers=("nginx",), output=tmp_path / "r.json", soak=0)
    results = run_serving_bench(options, [absent], console=Console(file=StringIO()))
    assert "apt-get install no-such-package" in results.absent["nginx"]
