"""The whole pipeline, twice from the same inputs: the same data, model and decision."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .fleet import digests

_MAKE = """
import sys
from pathlib import Path
from typing import Any
sys.path.insert(0, sys.argv[1])
from retraining.fleet import digests
digests(Path(sys.argv[2]))
"""


def elsewhere(state: Path) -> None:
    """In a process of its own, where hashes and the time zone are others."""
    subprocess.run(
        [sys.executable, "-c", _MAKE, str(Path(__file__).parents[1]), str(state)],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "1"},
    )


def read(state: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((state / "digests.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_inputs_give_the_same_digests(tmp_path: Path) -> None:
    digests(tmp_path / "here")
    elsewhere(tmp_path / "else" / "where")
    one, other = read(tmp_path / "here"), read(tmp_path / "else" / "where")
    assert one == other
    # The second run of each learned something else: it is no constant that is compared.
    first, retrained = one["first"], one["retrained"]
    assert first["model"] != retrained["model"]
    assert first["data"] != retrained["data"]
