"""The champion is moved by the newest controller alone, wherever the one before was stopped."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from coalmine.fencing import FencedOff
from coalmine.rollout._champion import FencedRegistry


class Registry:
    """Aliases without a compare-and-set; the first move waits in the middle until told."""

    def __init__(self) -> None:
        self.moves: list[str] = []
        self.rejected: list[str] = []
        self.in_the_middle, self.go_on = threading.Event(), threading.Event()
        self.waits = False

    def materialise(self, version: str) -> Path:
        return Path(version)

    def champion(self) -> str | None:
        return self.moves[-1] if self.moves else None

    def promote(self, version: str) -> None:
        if self.waits:
            self.waits = False
            self.in_the_middle.set()
            assert self.go_on.wait(60)
        self.moves.append(version)

    def reject(self, version: str, reason: str) -> None:
        self.rejected.append(version)


def test_the_newest_moves_the_champion_and_an_older_one_nothing(tmp_path: Path) -> None:
    registry = Registry()
    old, new = (FencedRegistry(registry, tmp_path / "rollout.champion") for _ in range(2))
    old.claim(1)
    old.promote("3")
    new.claim(2)
    with pytest.raises(FencedOff):
        old.promote("4")
    with pytest.raises(FencedOff):
        old.reject("3", "too late")
    with pytest.raises(FencedOff):
        old.claim(1)
    new.promote("5")
    new.reject("6", "worse")
    assert (registry.moves, registry.rejected) == (["3", "5"], ["6"])
    assert (new.champion(), new.materialise("7")) == ("5", Path("7"))


def test_one_that_was_stopped_within_its_move_repairs_it_when_it_wakes(tmp_path: Path) -> None:
    registry = Registry()
    old, new = (FencedRegistry(registry, tmp_path / "rollout.champion") for _ in range(2))
    old.claim(1)
    registry.waits = True
    asleep = threading.Thread(target=old.promote, args=("3",))
    asleep.start()
    try:
        assert registry.in_the_middle.wait(60)
        new.claim(2)
        new.promote("4")
        assert registry.champion() == "4"
    finally:
        registry.go_on.set()
        asleep.join(60)
    assert registry.moves == ["4", "3", "4"]
