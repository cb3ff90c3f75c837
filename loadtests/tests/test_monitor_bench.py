"""The benchmark of monitors, in small: what it counts, and that Coalmine goes through all of it."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from rich.console import Console

from coalmine_loadtests.monitors import (
    METHODS,
    Detectors,
    MonitorBenchError,
    MonitorBenchOptions,
    Results,
    joined,
    missed,
    null_rows,
    read_stream,
    run_monitor_bench,
    write_report,
)
from coalmine_loadtests.monitors._results import Delay, NullRuns, verdicts
from coalmine_loadtests.monitors._scores import delays, run_length, threshold_for
from coalmine_loadtests.monitors._worlds import NULLS

QUIET = Console(quiet=True)


def test_a_threshold_is_set_for_a_run_length() -> None:
    rng = np.random.default_rng(1)
    nulls = rng.exponential(size=(200, 100)).tolist()
    threshold = threshold_for(nulls, target=50)
    assert 50 <= run_length(nulls, threshold) < 60
    assert threshold == pytest.approx(math.log(50), abs=0.3), "of an exponential distribution"
    assert run_length(nulls, 100.0) == math.inf
    assert threshold_for([[1.0, 2.0]], target=50) > 2.0, "too few windows to say"


def test_delays_count_from_the_change_and_leave_false_alarms_out() -> None:
    shifted = [[0, 0, 9, 0], [0, 0, 0, 9], [9, 0, 9, 9], [0, 0, 0, 0]]
    assert delays(shifted, 5, change=2) == [1.0, 2.0, math.inf]


@pytest.mark.parametrize("world", NULLS, ids=lambda world: world.name)
def test_nulls_are_as_alike_as_they_say(world: object) -> None:
    rows = null_rows(world, 40_000, np.random.default_rng(2))  # type: ignore[arg-type]
    assert rows.std(axis=0).mean() == pytest.approx(1, abs=0.1)
    if world.kind == "ar":  # type: ignore[attr-defined]
        found = np.corrcoef(rows[1:, 0], rows[:-1, 0])[0, 1]
        assert found == pytest.approx(world.rho, abs=0.05)  # type: ignore[attr-defined]


def _stream(path: Path) -> Path:
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(4000, 3))
    rows[3000:, 1] += 2
    lines = ["a,b,c,day,class"]
    lines += [f"{a:.4f},{b:.4f},{c:.4f},mon,{int(a > 0)}" for a, b, c in rows]
    lines[10] = ",1.0,2.0,mon,1"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_coalmine_goes_through_all_of_it(tmp_path: Path) -> None:
    stream = read_stream(_stream(tmp_path / "stream.csv"), label_column="class", changes=(3000,))
    assert (stream.columns, stream.left_out) == (("a", "b", "c"), ("day",))
    options = MonitorBenchOptions(
        parts=("delays", "estimates", "streams"), peers=("coalmine",), runs=2, windows=10,
        reference=20, window=100, streams=(stream,), reference_rows=2000, budget=5.0,
        output=tmp_path / "bench.json",
    )  # fmt: skip
    results = run_monitor_bench(options, console=QUIET)
    found = Results.read(tmp_path / "bench.json")
    assert found.delays == results.delays
    assert not results.failures
    told = "two shifts in each of three worlds, PSI, CBPE, and two losses by each of four changes"
    assert len(verdicts(results)) == 16, told
    assert results.validity["nothing"]["false"] == 0
    assert results.validity["labels flipped, 20% lost"]["noticed"] == [1.0, 1.0]
    assert set(missed(results)) <= {text for text, *_ in verdicts(results)}
    judged = results.streams["stream"]["Coalmine"]
    assert 0 < judged["delays"]["3000"] <= 500
    document = tmp_path / "doc.md"
    document.write_text("a\n<!-- monitors results: begin -->\n<!-- monitors results: end -->\nb\n")
    written = write_report(found, docs=document, plots=tmp_path / "plots")
    assert [path.name for path in written] == ["monitors-delay.svg", "doc.md"]
    text = document.read_text()
    assert text.startswith("a\n")
    assert text.endswith("\nb\n")
    assert "| Coalmine |" in text
    assert "The stream stream" in text
    assert "| boundary turned, 10% lost |" in text


@pytest.mark.slow  # another process that imports everything
def test_what_a_detector_cannot_do_is_said(tmp_path: Path) -> None:
    with Detectors() as detectors:
        worker = detectors.worker(METHODS[0])
        rows = np.zeros((100, 2))
        with pytest.raises(MonitorBenchError, match="it takes 10"):
            worker.ask(
                "scores", arrays={"reference": rows, "stream": rows}, method="evidence", window=50
            )
        assert detectors.worker(METHODS[0]) is worker, "a mistake does not end it"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peers": ("nobody",)}, "--peer nobody: there is none such"),
        ({"parts": ("speed",)}, "--part speed: there is none such"),
    ],
)
def test_wrong_names_are_told(change: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(MonitorBenchError, match=message):
        run_monitor_bench(MonitorBenchOptions(**change), console=QUIET)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("command", "processes"),
    [
        (["monitors", "--part", "nulls", "--peer", "coalmine", "--output", "found.json"], 1),
        (["rollout", "--runs", "100000", "--processes", "2", "--json", "found.json"], 2),
    ],
    ids=["monitors", "rollout"],
)
@pytest.mark.slow  # the whole command, with its processes
def test_interrupted_a_benchmark_says_so_and_leaves_nothing_behind(
    command: list[str], processes: int, tmp_path: Path
) -> None:
    """To the process alone, as a supervisor does; a terminal tells all of its processes."""
    document = tmp_path / "doc.md"
    document.write_text("as it was")
    with (tmp_path / "said.txt").open("wb") as said:
        bench = psutil.Popen(
            [sys.executable, "-m", "coalmine.cli", "bench", *command, "--docs", str(document)],
            cwd=tmp_path, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
    try:
        for _ in range(600):
            children = bench.children(recursive=True)
            busy = [child for child in children if child.cpu_times().user > 0.2]
            if len(busy) >= processes or bench.poll() is not None:
                break
            time.sleep(0.1)
        assert busy, (tmp_path / "said.txt").read_text()
        bench.send_signal(signal.SIGINT)
        assert bench.wait(60) == 130
        _, alive = psutil.wait_procs(children, timeout=60)
        assert alive == []
    finally:
        for process in [bench, *bench.children(recursive=True)] if bench.is_running() else []:
            process.kill()
        bench.wait(60)
    assert document.read_text() == "as it was"
    left = {path.name for path in tmp_path.iterdir()} - {"found.json", "said.txt", "doc.md"}
    assert left == set()
    if (tmp_path / "found.json").exists():
        assert json.loads((tmp_path / "found.json").read_text())


def test_parts_that_were_run_apart_are_shown_as_one(tmp_path: Path) -> None:
    first, second = Results(), Results(failures=["throughput: too slow"])
    first.delays = {"calm": {"1": {"Coalmine": Delay(2.0, 100.0, 50, [1.0])}}}
    second.delays = {
        "calm": {"1": {"peer": Delay(3.0, 100.0, 50, [4.0])}},
        "other": {"1": {"Coalmine": Delay(2.0, 100.0, 50, [3.0])}},
    }
    second.nulls = {"calm": {"declared": NullRuns(1, 50, math.inf)}}
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    for part, path in zip((first, second), paths, strict=True):
        part.write(path)
    whole = joined([Results.read(path) for path in paths])
    assert list(whole.delays["calm"]["1"]) == ["Coalmine", "peer"]
    assert whole.delays["other"]["1"]["Coalmine"].median == 3
    assert whole.nulls["calm"]["declared"].windows == 50
    assert whole.failures == ["throughput: too slow"]


def test_a_stream_that_is_none_is_told(tmp_path: Path) -> None:
    path = _stream(tmp_path / "stream.csv")
    with pytest.raises(MonitorBenchError, match="--label-column truth"):
        read_stream(path, label_column="truth")
    with pytest.raises(MonitorBenchError, match="--change 9000: the stream has 4000 rows"):
        read_stream(path, changes=(9000,))
    path.write_text("a,b\n1\n")
    with pytest.raises(MonitorBenchError, match="not every row has 2 values"):
        read_stream(path)
    path.write_text("a\nx\n")
    with pytest.raises(MonitorBenchError, match="no column of numbers"):
        read_stream(path)
