"""`coalmine rollout explain` and `replay`, of rollouts that a real controller drove."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from coalmine.cli import main
from coalmine.cli._explain import explained
from coalmine.rollout import _shown

from ..rollout.conftest import Stage, stage  # noqa: F401


@pytest.fixture
def coalmine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COALMINE_STATE", raising=False)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["coalmine", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        captured = capsys.readouterr()
        return int(exited.value.code or 0), captured.out + captured.err

    return run


def whole(of: Stage, id: str) -> dict[str, Any]:
    shown = _shown.whole(of.rollout(id), of.store.ledger(id), controller=of.controller)
    answer: dict[str, Any] = json.loads(json.dumps(shown))
    return answer


async def test_a_promotion_is_told_with_its_evidence(stage: Stage) -> None:  # noqa: F811
    await stage.with_champion()
    id = stage.start("4")
    await stage.until_ended(id)
    story = explained(whole(stage, id))
    assert story.startswith(f"rollout {id}: version 4 beside version 3, promoted\n")
    assert "offered by tester: a test" in story
    assert re.search(r"shadow: the data plane has confirmed the routes", story)
    assert re.search(r"accuracy \(pairs\): .* ln e-value", story)
    assert "step 1 of 2: 10 %" in story
    assert story.splitlines()[-1].endswith("promoted")


async def test_a_rollback_says_why(stage: Stage) -> None:  # noqa: F811
    await stage.with_champion()
    stage.traffic.accuracy["4"] = 0.5
    id = stage.start("4")
    await stage.until_ended(id)
    story = explained(whole(stage, id))
    assert "the candidate is worse" in story
    assert re.search(r"ended .*, rolled_back: accuracy", story)


async def test_one_that_waits_says_for_what(stage: Stage) -> None:  # noqa: F811
    await stage.with_champion()
    id = stage.start("4")
    await stage.tick(6.0)
    assert "not enough evidence yet" in explained(whole(stage, id))
    stage.command(id, "pause")
    assert re.search(
        r"held at shadow: paused by tester; coalmine rollout resume", explained(whole(stage, id))
    )


async def test_a_ledger_is_replayed_offline(stage: Stage, coalmine: Any) -> None:  # noqa: F811
    await stage.with_champion()
    id = stage.start("4")
    await stage.until_ended(id)
    code, out = coalmine("rollout", "replay", id, "--database", str(stage.database))
    assert code == 0
    assert re.search(rf"{id}: \d+ verdicts recomputed, all of them the same", out)
    assert coalmine("rollout", "replay", "--database", str(stage.database)) == (code, out)
    code, out = coalmine("rollout", "replay", "r1", "--database", str(stage.database))
    assert (code, "none was recorded" in out) == (0, True)


async def test_a_database_without_rollouts_says_so(stage: Stage, coalmine: Any) -> None:  # noqa: F811
    code, out = coalmine("rollout", "replay", "--database", str(stage.database))
    assert code != 0
    assert "no rollout is in it yet" in out


async def test_a_ledger_that_was_changed_is_found_out(stage: Stage, coalmine: Any) -> None:  # noqa: F811
    await stage.with_champion()
    id = stage.start("4")
    await stage.until_ended(id)
    with sqlite3.connect(stage.database) as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            database.execute(f"DROP TRIGGER {name}")
        database.execute("UPDATE ledger SET body = replace(body, 'non_inferior', 'regression')")
    database.close()
    code, out = coalmine("rollout", "replay", id, "--database", str(stage.database))
    assert code == 1
    assert "DIFFERENT: now non_inferior" in out
    assert re.search(r"\d+ of them differ", out)


def test_a_database_that_is_not_there_says_what_to_name(coalmine: Any, tmp_path: Path) -> None:
    code, out = coalmine("rollout", "replay", "r1")
    assert code != 0
    assert "name one with --database FILE" in out
    code, out = coalmine("rollout", "replay", "r1", "--state", str(tmp_path / "x"))
    assert code != 0
    assert "no rollout database in" in out


async def test_an_unknown_rollout_is_told(stage: Stage, coalmine: Any) -> None:  # noqa: F811
    await stage.with_champion()
    code, out = coalmine("rollout", "replay", "r9", "--database", str(stage.database))
    assert code != 0
    assert "r9" in out
    assert "Traceback" not in out
