"""Of several writers only the newest replaces a file, wherever the others were interrupted."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from coalmine import fencing
from coalmine.fencing import Fence, FencedOff


def fenced(tmp_path: Path) -> tuple[Fence, Path]:
    return Fence(tmp_path / "fence"), tmp_path / "routes"


def test_without_claims_everybody_writes(tmp_path: Path) -> None:
    fence, path = fenced(tmp_path)
    fence.replace(path, b"one", token=0)
    fence.replace(path, b"two", token=3)
    fence.replace(path, b"three", token=0)
    assert path.read_bytes() == b"three"


def test_a_claim_shuts_out_smaller_tokens_for_good(tmp_path: Path) -> None:
    fence, path = fenced(tmp_path)
    fence.claim(7)
    fence.replace(path, b"seven", token=7)
    for smaller in (0, 6):
        with pytest.raises(FencedOff, match=f"controller 7 has taken over from {smaller}"):
            fence.replace(path, b"old", token=smaller)
        with pytest.raises(FencedOff):
            fence.claim(smaller)
    fence.claim(7)
    for token in range(8, 60):
        fence.claim(token)
    with pytest.raises(FencedOff):
        fence.replace(path, b"old", token=7)
    assert path.read_bytes() == b"seven"
    assert len(list((tmp_path / "fence").iterdir())) < 20, "nothing piles up"


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    fence, path = fenced(tmp_path)
    fence.claim(1)
    (tmp_path / "fence" / "1.dead.tmp").write_bytes(b"half")
    fence.claim(2)
    fence.replace(path, b"two", token=2)
    assert [each.name for each in (tmp_path / "fence").glob("*.tmp")] == []


def test_a_missing_directory_is_no_rival(tmp_path: Path) -> None:
    fence, _ = fenced(tmp_path)
    with pytest.raises(FileNotFoundError):
        fence.replace(tmp_path / "nowhere" / "file", b"x", token=1)


class Sleeper(threading.Thread):
    """Writes with token 1, and falls asleep before the n-th line it would run in `fencing`."""

    def __init__(self, fence: Fence, path: Path, *, line: int) -> None:
        super().__init__()
        self.fence, self.path, self.left = fence, path, line
        self.asleep, self.awake = threading.Event(), threading.Event()
        self.fenced_off = self.finished = False

    def run(self) -> None:
        sys.settrace(self._trace)
        try:
            self.fence.replace(self.path, b"old", token=1)
            self.finished = True
        except FencedOff:
            self.fenced_off = True
        finally:
            sys.settrace(None)
            self.asleep.set()

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != fencing.__file__:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.asleep.set()
                self.awake.wait()
        return self._trace


def test_a_writer_that_sleeps_at_any_line_does_not_write_when_it_wakes(tmp_path: Path) -> None:
    outcomes = []
    for line in range(1, 100):
        fence, path = fenced(tmp_path / str(line))
        fence.claim(1)
        fence.replace(path, b"before", token=1)
        sleeper = Sleeper(fence, path, line=line)
        sleeper.start()
        sleeper.asleep.wait()
        if sleeper.finished:
            break
        fence.claim(2)
        at_the_claim = path.read_bytes()
        sleeper.awake.set()
        sleeper.join()
        assert path.read_bytes() == at_the_claim, f"asleep before line {line}"
        outcomes.append(sleeper.fenced_off)
    assert len(outcomes) > 8
    assert outcomes[0]
    assert not outcomes[-1], "what was renamed before the claim was rightly so"
