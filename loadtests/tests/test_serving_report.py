"""Medians, ratios, bars and documents, from samples with known numbers."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from coalmine.cli._app import app
from coalmine_loadtests.serving import CELLS, SERVERS, Results, ServingBenchError, judge
from coalmine_loadtests.serving._environments import PEERS, repository
from coalmine_loadtests.serving._plan import plan, select_cells, select_servers
from coalmine_loadtests.serving._plots import write_plots
from coalmine_loadtests.serving._samples import Sample, Start
from coalmine_loadtests.serving._table import markdown, print_results, write_docs

JSON = "mlp/json1_c64"


def sample(server: str, cell: str, rate: float, *, round: int = 0, **fields: Any) -> Sample:
    return Sample(
        server=server, cell=cell, round=round, requests_per_s=rate,
        rows_per_s=rate * CELLS[cell].rows, p50_ms=fields.pop("p50_ms", 1.0),
        p99_ms=fields.pop("p99_ms", 2.0), **fields,
    )  # fmt: skip


def start(ready: float, *, model: str = "mlp", rss: float = 100.0, **account: float) -> Start:
    return Start(
        server="coalmine", model=model, round=0, ready_s=ready, idle_rss_mb=rss, idle_pss_mb=90.0,
        loaded_pss_mb=120.0, account=account,
    )  # fmt: skip


@pytest.fixture
def results() -> Results:
    samples = [sample("coalmine", JSON, rate, round=n) for n, rate in enumerate((16e3, 10e3, 13e3))]
    samples += [sample("coalmine-unrecorded", JSON, 13.5e3), sample("kserve", JSON, 1e3)]
    samples += [sample("kserve-quiet", JSON, 2e3), sample("triton-batched", JSON, 26e3)]
    samples += [sample("onnxruntime", "mlp/call1024", 8e3), sample("nginx", JSON, 2e5)]
    samples += [sample("coalmine", "mlp/bin1024_c8", 4e3)]
    names = ("coalmine", "coalmine-unrecorded", "kserve-quiet", "kserve", "triton-batched")
    titles = {name: name for name in (*names, "onnxruntime", "nginx")}
    machine = {
        "processor": "P", "cores": 2, "memory_gib": 8, "system": "Linux", "python": "3",
        "measured": 0.0,
    }  # fmt: skip
    options = {"repeats": 3, "seconds": 1.0}
    return Results(machine=machine, options=options, titles=titles, samples=samples)


def bar(results: Results, text: str, *, wanted: bool = False) -> Any:
    (found,) = (v for v in judge(results) if text in v.bar.text and v.bar.wanted == wanted)
    return found


def test_medians_and_spread(results: Results) -> None:
    measured = results.measured("coalmine", JSON)
    assert measured is not None
    assert measured.rows_per_s == 13e3
    assert measured.spread == pytest.approx(6 / 13)
    assert results.measured("kserve", "gbt/json1_c64") is None


def test_a_sample_with_errors_counts_for_nothing_and_is_told(results: Results) -> None:
    results.samples.append(
        Sample(server="coalmine", cell=JSON, round=3, errors=4, told="2 status errors")
    )
    measured = results.measured("coalmine", JSON)
    assert measured is not None
    assert (measured.rows_per_s, measured.errors) == (13e3, 4)
    assert f"coalmine {JSON}: 2 status errors" in markdown(results)


def test_bars_are_ratios_of_what_was_measured(results: Results) -> None:
    verdict = bar(results, f"{JSON}: rate over stock KServe")
    assert verdict.measured == 6.5  # over the better of the two configurations
    assert verdict.word == "pass"
    assert bar(results, f"{JSON}: rate over stock KServe", wanted=True).word == "short"
    assert bar(results, f"{JSON}: rate over batched Triton", wanted=True).measured == 0.5
    assert bar(results, "mlp/bin1024_c8: share of").measured == 0.5
    assert bar(results, f"records on: cost of {JSON}").measured == pytest.approx(100 * 0.5 / 13.5)
    assert bar(results, "mlp/json1_c8: rate over the best peer").word == "not measured"
    assert bar(results, "memory: growth").word == "not measured"


def test_a_missed_bar_is_told_as_one(results: Results) -> None:
    results.samples.append(sample("kserve-quiet", JSON, 4e3, round=1))
    verdict = bar(results, f"{JSON}: rate over stock KServe")
    assert verdict.measured == pytest.approx(13 / 3)
    assert verdict.word == "FAIL"


def test_starts_are_judged_by_the_worst_model(results: Results) -> None:
    results.starts += [start(1.0), start(9.0), start(1.2), start(3.5, model="gbt", rss=400.0)]
    assert bar(results, "start: until ready").measured == 3.5
    assert bar(results, "start: until ready").word == "FAIL"
    assert bar(results, "memory: RSS when idle").measured == 400.0
    results.starts[-1] = start(2.9, model="gbt", records_emitted=200.0, records_dropped=1.0)
    assert bar(results, "start: until ready").word == "pass"
    assert bar(results, "records on: rows lost", wanted=True).measured == 0.5


def test_results_survive_a_file(results: Results, tmp_path: Path) -> None:
    results.starts.append(start(1.0, records_emitted=3.0))
    results.write(tmp_path / "r.json")
    assert Results.read(tmp_path / "r.json") == results
    assert results.has("coalmine", JSON, 2)
    assert not results.has("coalmine", JSON, 3)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 0}', '{"format": 1, "samples": [{}]}'])
def test_another_file_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ServingBenchError, match=r"r\.json is no result"):
        Results.read(tmp_path / "r.json")


def test_documents_are_rewritten_between_their_markers(results: Results, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n")
    results.absent["ray"] = "no wheel\nfor this"
    for _ in range(2):
        write_docs(results, page)
        text = page.read_text()
        assert text.startswith("before\n")
        assert text.endswith("after\n")
        assert "old" not in text
        assert text.count("### Bars") == 1
        assert "13,000 (2)" in text
        assert "- ray is absent: no wheel for this" in text


def test_a_document_without_markers_is_left_alone(results: Results, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("mine")
    with pytest.raises(ServingBenchError, match="lacks the lines"):
        write_docs(results, page)
    assert page.read_text() == "mine"


def test_the_terminal_shows_the_same(results: Results) -> None:
    output = StringIO()
    print_results(results, Console(file=output, width=160))
    text = output.getvalue()
    assert text.index("triton-batched") < text.index("kserve-quiet")  # best first
    assert "6.50" in text
    assert "6.5x" in text


def test_plots_are_the_same_for_the_same_results(results: Results, tmp_path: Path) -> None:
    written = write_plots(results, tmp_path / "1")
    assert [path.name for path in written] == ["throughput.svg"]
    again = write_plots(results, tmp_path / "2")
    assert written[0].read_bytes() == again[0].read_bytes()
    assert b"<svg" in written[0].read_bytes()


def test_every_server_names_cells_and_a_lock_that_exist() -> None:
    for server in SERVERS.values():
        assert server.cells
        assert set(server.cells) <= set(CELLS)
        if server.lock is not None:
            assert (repository() / "requirements" / f"bench-{server.lock}.txt").is_file()
            assert (repository() / PEERS / f"{server.lock}.in").is_file()


def test_a_selection_by_product_and_by_model() -> None:
    servers = list(SERVERS.values())
    chosen, in_process = select_servers(["kserve"], servers)
    assert [server.name for server in chosen] == ["kserve-quiet", "kserve"]
    assert not in_process
    steps = plan(chosen, select_cells(["gbt", "mlp/json1_c8"]))
    assert [(step.server.name, step.model) for step in steps] == [
        ("kserve-quiet", "mlp"),
        ("kserve-quiet", "gbt"),
        ("kserve", "mlp"),
    ]
    everything, in_process = select_servers([], servers)
    assert (everything, in_process) == (servers, True)


@pytest.mark.parametrize("name", ["kserv", "json1"])
def test_a_misspelt_selection_names_what_is_allowed(name: str) -> None:
    with pytest.raises(ServingBenchError, match="kserve-quiet"):
        select_servers([name], list(SERVERS.values()))
    with pytest.raises(ServingBenchError, match="mlp/json1_c8"):
        select_cells([name])


def test_the_command_shows_an_earlier_run(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / "r.json")
    page = tmp_path / "page.md"
    page.write_text("<!-- results: begin -->\n<!-- results: end -->\n")
    command = ["bench", "serving", "--report", str(tmp_path / "r.json"), "--docs", str(page)]
    done = CliRunner().invoke(app, [*command, "--plots", str(tmp_path / "plots")])
    assert done.exit_code == 0, done.output
    assert "6.5x" in done.output
    assert "### Bars" in page.read_text()
    assert (tmp_path / "plots" / "throughput.svg").exists()
    assert "![throughput](plots/throughput.svg)" in page.read_text()
