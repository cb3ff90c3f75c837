"""The report on made-up runs: every field, a page without outside links, pictures that hold ink."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest

from coalmine.demo._history import History
from coalmine.demo._ledger import Accuracy, Phase
from coalmine.demo._options import Scenario
from coalmine.demo._report import write_json, write_pages

from .stories import good_facts, story_of

FIELDS = {
    "scenario", "seed", "requests", "failed_requests", "resent_requests", "records_emitted",
    "records_in_log", "records_dropped", "drift", "alerts", "retraining", "rollout", "versions",
    "accuracy", "stages", "ok",
}  # fmt: skip


@pytest.mark.parametrize("scenario", list(Scenario))
def test_report_json_has_every_field_in_every_scenario(tmp_path: Path, scenario: Scenario) -> None:
    path = write_json(story_of(good_facts(scenario)), tmp_path / "new" / "report")
    report = json.loads(path.read_text("utf-8"))
    assert set(report) >= FIELDS
    assert report["ok"] is True
    assert set(report["drift"]) >= {"onset", "detected", "features"}
    assert set(report["rollout"]) >= {"verdict", "started", "ended", "evidence"}
    assert set(report["accuracy"]) == {"before", "during", "after"}
    assert report["stages"]["total"] == 260.0


def test_chemistry_tells_the_whole_story(tmp_path: Path) -> None:
    report = json.loads(write_json(story_of(good_facts(Scenario.CHEMISTRY)), tmp_path).read_text())
    assert report["drift"]["features"] == ["r_internal", "dv_dq"]
    assert report["drift"]["delay"] == 12.0
    assert report["retraining"]["runs"] == 1
    assert report["retraining"]["outcome"] == "promoted-to-rollout"
    assert report["rollout"]["verdict"] == "non_inferior"
    assert report["rollout"]["evidence"] == {"accuracy": {"log_e": 7.2}}
    assert {a["alertname"]: a["fates"] for a in report["alerts"]} == {
        "CoalmineDrift": [], "CoalmineAccuracyLoss": ["accepted"],
    }  # fmt: skip


def test_a_run_cut_short_still_makes_a_report(tmp_path: Path) -> None:
    nothing = Accuracy(float("nan"), 0.0, 1.0, 0, 0)
    facts = replace(
        good_facts(Scenario.NONE), injected_at=None, requests=0, problem="interrupted",
        accuracy=dict.fromkeys(Phase, nothing), rollouts=(), runs=(),
    )  # fmt: skip
    story = story_of(facts, bins=[], phases={}, stages=[], versions=[], history=History())
    report = json.loads(write_json(story, tmp_path).read_text("utf-8"))
    assert report["ok"] is False
    assert report["problem"] == "interrupted"
    assert report["accuracy"] == {"before": None, "during": None, "after": None}
    assert "interrupted" in write_pages(story, tmp_path).read_text("utf-8")


class _Page(HTMLParser):
    """Collects what a page loads, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_holds_everything_itself_and_escapes_what_it_is_told(tmp_path: Path) -> None:
    from PIL import Image

    text = write_pages(story_of(good_facts(Scenario.CHEMISTRY)), tmp_path).read_text("utf-8")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert len(page.sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "promoted &lt;b&gt;" in text
    assert not re.search(r"https?://", text)
    for picture in tmp_path.glob("*.png"):
        image = Image.open(BytesIO(picture.read_bytes())).convert("L")
        assert image.width >= 1200
        assert sum(image.histogram()[:200]) > 2000, f"{picture.name} is empty"
    assert len(list(tmp_path.glob("*.png"))) == 4
