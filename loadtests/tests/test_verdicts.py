"""The rollout benchmark: its worlds, the rules of others, and a small case of the whole."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from coalmine.arms import Arm
from coalmine.cli._app import app
from coalmine.rollout import Window, select
from coalmine_loadtests.verdicts import RolloutBenchError, RolloutBenchOptions, run_rollout_bench
from coalmine_loadtests.verdicts._latency import EDGES_US, SHAPES, p99_us
from coalmine_loadtests.verdicts._report import BEGIN, END
from coalmine_loadtests.verdicts._results import Results
from coalmine_loadtests.verdicts._rules import OURS, RULES, Fate
from coalmine_loadtests.verdicts._worlds import BLOCK_S, Run, World, simulate

QUIET = Console(file=io.StringIO())
ARGO, STRICT = [name for name in RULES if name.startswith("Argo")]
ONCE, THRICE = [name for name in RULES if name.startswith("more than")]
FLAGGER, KAYENTA = "Flagger, threshold 5", "Kayenta, 75/95"


def run_of(candidate: list[int], baseline: list[int], *, n: int = 300, slow: bool = False) -> Run:
    """A run of these errors a minute, in which every request takes as long."""
    run = simulate(World(minutes=len(candidate)), np.random.default_rng(1))
    requests = np.full((2, len(candidate)), n)
    latency = np.zeros((2, len(candidate), EDGES_US.size + 1), dtype=np.int64)
    latency[1, :, 40] = n
    latency[0, :, 90 if slow else 40] = n
    return Run(
        requests=requests,
        errors=np.array([candidate, baseline]),
        latency=latency,
        measured=run.measured,
        whole=run.whole,
        callers=(),
    )


def test_a_look_sees_what_could_be_seen_then() -> None:
    run = simulate(World(minutes=6), np.random.default_rng(2))
    window = Window(arm=Arm.CANARY, opened_at=0.0, weights={Arm.CANARY: 50, Arm.BASELINE: 50})
    for minute, look in enumerate(run.looks(), 1):
        now = 60.0 * minute
        known = run.measured.model_copy(
            update={
                "evaluated_to": now,
                "blocks": tuple(b for b in run.measured.blocks if b.time < now),
            }
        )
        then = select(known, windows=(window,), candidate="2", stable="1", block_s=BLOCK_S)
        assert look.blocks == then.blocks
        assert (look.stage_seconds, look.evaluated_to) == (now, now)
    assert look.tail_edge_us == then.tail_edge_us


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_a_distribution_and_slower_is_slower(shape: str) -> None:
    usual, slower = SHAPES[shape].shares(), SHAPES[shape].shares(1.3)
    assert usual.sum() == pytest.approx(1.0)
    assert usual.min() >= 0.0
    rng = np.random.default_rng(3)
    p99 = [p99_us(rng.multinomial(1_000_000, shares)) for shares in (usual, slower)]
    assert p99[1] / p99[0] == pytest.approx(1.3, abs=0.06)


def test_errors_of_callers_add_up() -> None:
    run = simulate(World(minutes=3, callers=20), np.random.default_rng(4))
    for i, arm in enumerate((Arm.CANARY, Arm.BASELINE)):
        assert run.callers[-1][arm].requests == run.requests[i].sum()
        assert run.callers[-1][arm].errors == run.errors[i].sum()


#: Errors of candidate and baseline by minute, and the fates by rule.
CALM = [1] * 30
CASES = {
    "calm": (CALM, CALM, False, {ONCE: 0, THRICE: 0, ARGO: 0, STRICT: 0, FLAGGER: 0, KAYENTA: 0}),
    "one bad minute": ([1, 1, 9, *[1] * 27], CALM, False, {ONCE: 3, THRICE: 0, STRICT: 0}),
    "three in a row": ([1, 9, 9, 9, *[1] * 26], CALM, False, {ONCE: 2, THRICE: 4, STRICT: 0}),
    "always 3 %": ([9] * 30, CALM, False, {THRICE: 3, ARGO: 0, STRICT: 4, FLAGGER: 5, KAYENTA: 10}),
    "always 3 % on both": ([9] * 30, [9] * 30, False, {STRICT: 4, FLAGGER: 5, KAYENTA: 0}),
    "slow": (CALM, CALM, True, {ONCE: 0, STRICT: 0, FLAGGER: 5, KAYENTA: 10}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rules_of_others(case: str) -> None:
    candidate, baseline, slow, expected = CASES[case]
    run = run_of(candidate, baseline, slow=slow)
    for rule, minute in expected.items():
        fate = Fate("rolled_back", minute) if minute else Fate("promoted", 30)
        assert (rule, RULES[rule](run)) == (rule, fate)


def test_without_requests_others_end_it_one_way_or_the_other() -> None:
    run = run_of([0] * 30, [0] * 30, n=0)
    run.latency[:] = 0
    fates = {rule: RULES[rule](run) for rule in (ONCE, STRICT, FLAGGER)}
    assert fates == {
        ONCE: Fate("promoted", 30), STRICT: Fate("rolled_back", 5), FLAGGER: Fate("rolled_back", 5),
    }  # fmt: skip


def test_a_seed_gives_the_same_on_any_number_of_processes() -> None:
    options = RolloutBenchOptions(runs=30, worlds=("errors 4x",), rules=("coalmine", "kayenta"))
    alone = run_rollout_bench(options, console=QUIET)
    shared = run_rollout_bench(
        RolloutBenchOptions(
            runs=30, worlds=("errors 4x",), rules=("coalmine", "kayenta"), processes=2
        ),
        console=QUIET,
    )
    for rule in (OURS, KAYENTA):
        one, other = (each.cells["errors 4x"][rule] for each in (alone, shared))
        assert sorted(one.rolled_back) == sorted(other.rolled_back)
    ours = alone.cells["errors 4x"][OURS]
    assert ours.share("rolled_back") == 1.0
    assert ours.median("rolled_back") <= 5


def test_the_command_writes_its_files_and_fails_for_a_missed_bar(tmp_path: Path) -> None:
    docs, json = tmp_path / "page.md", tmp_path / "bench.json"
    docs.write_text(f"before\n{BEGIN}\nwhat was here\n{END}\nafter\n")
    asked = ["bench", "rollout", "--runs", "3", "--world", "errors 4x", "--world", "null"]
    files = ["--json", str(json), "--docs", str(docs), "--plots", str(tmp_path)]
    result = CliRunner().invoke(app, [*asked, *files])
    assert result.exit_code == 0, result.output
    text = docs.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "what was here" not in text
    assert "| errors 4x | 100 (" in text
    assert "![rollout](rollout.svg)" in text
    assert (tmp_path / "rollout.svg").read_text().startswith("<?xml")
    again = CliRunner().invoke(app, ["bench", "rollout", "--report", str(json)])
    assert again.exit_code == 0
    results = Results.read(json)
    results.cells["null"][OURS].rolled_back = [3, 3]
    results.write(json)
    missed = CliRunner().invoke(app, ["bench", "rollout", "--report", str(json)])
    assert missed.exit_code == 1
    assert "MISSED" in missed.output


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RolloutBenchError, match="--world nul: there is none such; there are null"):
        run_rollout_bench(RolloutBenchOptions(worlds=("nul",)), console=QUIET)
    with pytest.raises(RolloutBenchError, match="--rule x: there is none such; there are Coalmine"):
        run_rollout_bench(RolloutBenchOptions(rules=("x",)), console=QUIET)
    (tmp_path / "page.md").write_text("nothing\n")
    (tmp_path / "other.json").write_text("{}")
    for option in ("--docs", "--report"):
        path = tmp_path / ("page.md" if option == "--docs" else "other.json")
        asked = ["bench", "rollout", "--runs", "1", "--world", "trickle", "--rule", "argo"]
        result = CliRunner().invoke(app, [*asked, option, str(path)])
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: {path} ")
    assert (tmp_path / "page.md").read_text() == "nothing\n"
