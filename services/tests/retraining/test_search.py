"""The search: how much history, which parameters; within its budget, and going on where it died."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coalmine.retraining import learning
from coalmine.retraining.learning import _search

from .learning_tables import CLASSES, FEATURES, drifted


def train(
    rows: Any, *, tell: Callable[[learning.Progress], None] | None = None, **budget: Any
) -> learning.Trained:
    given = {"trials": 5, "seconds": 120.0, "seed": 3, **budget}
    if tell is not None:
        given["tell"] = tell
    return learning.train_classifier(
        rows, features=FEATURES, classes=CLASSES, budget=learning.Budget(**given)
    )


def test_a_past_that_no_longer_holds_is_left_out_and_one_that_does_is_used() -> None:
    turned = train(drifted(shift=1.2), trials=1).history
    assert turned.window == "since onset"
    told = turned.as_dict()
    assert set(told["loss"]) == set(learning.WINDOWS)
    assert told["loss"]["since onset"] == min(told["loss"].values())
    assert told["rows"]["since onset"] < told["rows"]["all"]
    same = train(drifted(shift=0.0), trials=1).history
    assert same.window != "since onset"
    assert same.tried["since onset"].loss > same.tried[same.window].loss


def test_a_search_that_died_goes_on_and_finds_what_it_would_have_found(tmp_path: Path) -> None:
    rows, straight = drifted(), train(drifted(), study=tmp_path / "straight.db")

    class Killed(Exception):
        pass

    def kill(progress: learning.Progress) -> None:
        if progress.trial == 3:
            raise Killed

    study = tmp_path / "runs" / "r1.db"
    with pytest.raises(Killed):
        train(rows, study=study, tell=kill)
    told: list[learning.Progress] = []
    found = train(rows, study=study, tell=told.append)
    assert [progress.trial for progress in told] == [3, 4, 5]
    assert found.found.params == straight.found.params
    assert found.found.tried.rounds == straight.found.tried.rounds
    straight.model.export(tmp_path / "a")
    found.model.export(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    # Other rows are another search, in the same file.
    train(drifted(shift=0.0), study=study, trials=1)
    with sqlite3.connect(study) as database:
        assert database.execute("SELECT count(*) FROM studies").fetchone() == (2,)
    database.close()


def test_a_trial_that_a_killed_process_left_running_is_not_counted(tmp_path: Path) -> None:
    import optuna

    study = tmp_path / "s.db"
    train(drifted(), study=study, trials=2)
    name = optuna.get_all_study_names(f"sqlite:///{study}")[0]
    optuna.load_study(study_name=name, storage=f"sqlite:///{study}").ask()
    found = train(drifted(), study=study, trials=3).found
    assert found.trials == 3


def test_hopeless_trials_are_pruned_and_progress_is_told() -> None:
    told: list[learning.Progress] = []
    found = train(drifted(), trials=14, tell=told.append).found
    assert found.trials == 14
    assert found.pruned == sum(progress.state == "pruned" for progress in told) > 0
    best = [progress.best_loss for progress in told]
    assert best == sorted(best, reverse=True)
    assert {progress.of for progress in told} == {14}


def test_time_that_died_with_a_search_is_spent(tmp_path: Path) -> None:
    class Clock:
        now = 0.0

        def time(self) -> float:
            return self.now

        def monotonic(self) -> float:
            self.now += 1.0
            return self.now

    study = tmp_path / "s.db"
    train(drifted(), study=study, trials=4)
    spent = _search._seconds(_open(study))
    assert spent > 0
    again = train(drifted(), study=study, trials=40, seconds=spent, clock=Clock()).found
    assert (again.trials, again.stopped_by) == (4, "time")


def _open(study: Path) -> Any:
    import optuna

    name = optuna.get_all_study_names(f"sqlite:///{study}")[0]
    return optuna.load_study(study_name=name, storage=f"sqlite:///{study}")
