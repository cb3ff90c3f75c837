"""Locust against a real server, in a process of its own as a user runs it: it patches sockets."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import coalmine_loadtests

from .conftest import Served

FILES = Path(coalmine_loadtests.__file__).parent


def locust(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, dict[str, str]], str]:
    prefix = tmp_path / "load"
    command = [
        sys.executable, "-m", "locust", "--headless", "--only-summary", "--csv", str(prefix),
        "--exit-code-on-error", "3", "--stop-timeout", "5", *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    with Path(f"{prefix}_stats.csv").open(newline="") as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    return done.returncode, rows, done.stderr


def test_vehicles_of_every_protocol_are_answered(served: Served, tmp_path: Path) -> None:
    code, rows, told = locust(
        tmp_path, "-f", str(FILES / "users.py"), "--host", served.url,
        "--users", "6", "--spawn-rate", "6", "--run-time", "8s", "--uploads-per-s", "5",
    )  # fmt: skip
    assert code == 0, told
    for protocol in ("v1", "v2", "grpc"):
        assert int(rows[protocol]["Request Count"]) >= 5, rows
        assert int(rows[protocol]["Failure Count"]) == 0


def test_a_model_that_is_not_served_fails_every_request(served: Served, tmp_path: Path) -> None:
    code, rows, _ = locust(
        tmp_path, "-f", str(FILES / "users.py"), "--host", served.url, "--model", "nobody",
        "--users", "3", "--spawn-rate", "3", "--run-time", "6s", "--uploads-per-s", "5",
    )  # fmt: skip
    assert code == 3
    for protocol in ("v1", "v2", "grpc"):
        assert rows[protocol]["Request Count"] == rows[protocol]["Failure Count"] != "0"


def test_the_shape_of_a_day_begins_and_ends(served: Served, tmp_path: Path) -> None:
    files = f"{FILES / 'users.py'},{FILES / 'shapes.py'}"
    code, rows, told = locust(
        tmp_path, "-f", files, "--host", served.url, "--day-seconds", "5", "--peak-users", "6",
    )  # fmt: skip
    assert code == 0, told
    assert int(rows["Aggregated"]["Request Count"]) > 10
