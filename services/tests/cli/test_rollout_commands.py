"""`coalmine rollout`: what is asked of the controller, and what is told of its answers."""

from __future__ import annotations

import json
from typing import Any

from .conftest import Control


def test_a_rollout_is_started_and_steered(coalmine: Any, control: Control) -> None:
    control.answers = {"/rollout/v1/rollouts": (201, {"id": "r-2"})}
    done = coalmine("rollout", "start", "4", "--no-shadow", "--reason", "July")
    assert done.out.startswith("rollout r-2 of version 4")
    method, path, body = control.asked.pop()
    assert (method, path) == ("POST", "/rollout/v1/rollouts")
    assert (body["version"], body["shadow"], body["reason"]) == ("4", False, "July")
    assert body["actor"]
    old = {"id": "r-1", "version": "3", "state": "rolled_back", "started": 1.0}
    old["why"] = "more errors"
    new = {"id": "r-2", "version": "4", "state": "stepping", "started": 2.0}
    control.answers = {
        "/rollout/v1/rollouts": (200, {"rollouts": [old, new]}),
        "/rollout/v1/rollouts/r-2/abort": (200, {"state": "stepping", "stage": "revert"}),
        "/rollout/v1/rollouts/r-2": (200, {**new, "ledger": []}),
    }
    assert coalmine("rollout", "abort").out == "rollout r-2: stepping, now at revert\n"
    lines = coalmine("rollout", "history").out.splitlines()
    assert lines[0] == "r-2  1970-01-01 00:00:02  version 4  stepping"
    assert lines[1].endswith("version 3  rolled_back  more errors")
    assert json.loads(coalmine("rollout", "status").out)["id"] == "r-2"
    control.answers["/rollout/v1/rollouts"] = (200, {"rollouts": [old]})
    assert "no rollout runs" in coalmine("rollout", "pause").err
    control.answers["/rollout/v1/rollouts"] = (200, {"rollouts": []})
    assert "no rollout yet" in coalmine("rollout", "history").err


def test_what_is_no_id_leads_nowhere_else(coalmine: Any, control: Control) -> None:
    control.answers = {"/rollout/v1/weights": (200, {"weights": {}})}
    for command in ("status", "explain", "abort"):
        assert coalmine("rollout", command, "../weights").code == 1


def test_a_refusal_is_told_in_the_services_words(coalmine: Any, control: Control) -> None:
    control.answers = {"/rollout/v1/rollouts": (409, {"error": "r-1 runs already"})}
    done = coalmine("rollout", "start", "4")
    assert done.code == 1
    assert done.err == "coalmine: rollout refuses (409): r-1 runs already\n"
