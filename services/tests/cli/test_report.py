"""`coalmine report`: of a state directory that a monitor has judged, with names that bite."""

from __future__ import annotations

import asyncio
import contextlib
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from coalmine.cli._app import app
from coalmine.modeldir import REFERENCE_FILE, Column, ModelCard, Tensor, write_card
from coalmine.records import BatchId, InferenceRecord, Label, open_log, record_batch
from coalmine.spec import load_service

EVIL = "<script>alert('x')</script>"
WINDOW = 100
START = 1_795_000_000.0
CLASSES = ("normal", "fault & more")
CARD = ModelCard(
    name="toy",
    inputs=(
        Tensor(
            name="x",
            datatype="FP64",
            shape=(-1, 2),
            columns=(Column(name=EVIL), Column(name="soc")),
        ),
    ),
    outputs=(
        Tensor(
            name="label",
            datatype="INT64",
            shape=(-1,),
            columns=(Column(name="label", type="categorical", categories=CLASSES),),
        ),
    ),
)


class _Page(HTMLParser):
    """What a browser would do with it: tags that are open, and what it would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert name not in ("src", "href", "onload", "onclick"), f"{tag} {name}={value}"
        if tag not in ("meta", "br", "rect", "line", "circle", "polyline", "polygon"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line", "circle", "polyline", "polygon"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a service file and the state of monitors that have judged its log."""
    return asyncio.run(_judge(tmp_path_factory.mktemp("stack")))


async def _judge(home: Path) -> Path:
    from coalmine_monitors import create_drift_app, create_performance_app

    file, state = home / "coalmine.yaml", home / "state"
    file.write_text(
        "name: toy\nmodel: {uri: 'models:/toy@champion'}\n"
        f"monitors: {{drift: {{window_rows: {WINDOW}, expected_run_length: 100}}}}\n"
    )
    rng = np.random.default_rng(8)
    (state / "models" / "7").mkdir(parents=True)
    write_card(state / "models" / "7", CARD)
    usual = rng.normal(size=(40 * WINDOW, 2))
    reference = pa.table({EVIL: usual[:, 0], "soc": usual[:, 1], "label": np.zeros(40 * WINDOW)})
    pq.write_table(reference, state / "models" / "7" / REFERENCE_FILE)
    rows = rng.normal(size=(12 * WINDOW, 2))
    rows[6 * WINDOW :, 0] += 2
    with contextlib.closing(open_log(f"sqlite:///{state}/records.db")) as log:
        records = [
            InferenceRecord(
                request_id=str(number),
                time=START + number,
                protocol="v2",
                latency_us=500,
                inputs={"x": row[None, :]},
                outputs={"label": np.zeros(1, np.int64)},
                queue_us=0,
                batch_rows=1,
            )
            for number, row in enumerate(rows)
        ]
        batch = record_batch(records, card=CARD, model_version="7", arm="stable")
        log.append(batch, batch_id=BatchId("e", 1, len(rows)))
        # One in five rows is not what was answered.
        log.put_labels(
            [
                Label(str(number), CLASSES[number % 5 == 0], START + number + 5)
                for number in range(len(rows))
            ]
        )
        makers = {"drift": create_drift_app, "performance": create_performance_app}
        for name, make in makers.items():
            monitor = make(
                load_service(file), log=log, state=state / f"{name}.db", models=state / "models"
            )
            transport = httpx.ASGITransport(monitor)
            async with (
                monitor.router.lifespan_context(monitor),
                httpx.AsyncClient(transport=transport, base_url="http://monitor") as client,
            ):
                deadline = time.monotonic() + 60
                while not _done((await client.get(f"/v1/{name}")).json()["windows"]):
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
    return home


def _done(windows: list[dict[str, Any]]) -> bool:
    """Whether all rows are judged; all of them labelled, where labels count."""
    if windows and "labelled" in windows[0]:
        return sum(window["labelled"] for window in windows) == 12 * WINDOW
    return len(windows) == 12


def _run(home: Path, *arguments: str | Path) -> Result:
    common = ("--state", str(home / "state"))
    return CliRunner().invoke(app, ["report", *map(str, arguments), *common])


def test_the_page_says_what_drifts_and_loads_nothing(judged: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    result = _run(judged, judged / "coalmine.yaml", "--output", out)
    assert result.exit_code == 0, result.output
    assert "12 windows" in result.output
    text = out.read_text("utf-8")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "http" not in text.replace("http-equiv", "")
    whole = "".join(page.texts)
    assert f"{EVIL} moved away from the training data" in whole
    assert "1,200 answered rows compared" in whole
    first = whole.index("highest")  # the head of the table of features
    assert first < whole.index(EVIL, first) < whole.index("soc", first), "ranked"
    assert text.count("<svg") == 2 + 3, "evidence, performance, and a picture for each column"
    assert "quality.db: missing" in whole, "what cannot be told is said"


def test_a_range_of_time(judged: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    span = ("--from", str(START), "--to", str(START + 5 * WINDOW))
    result = _run(judged, judged / "coalmine.yaml", *span, "--output", out)
    assert result.exit_code == 0, result.output
    text = out.read_text("utf-8")
    assert "no drift" in text
    assert "500 answered rows" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("toy",), "no stack runs on"),
        (("FILE", "--from", "tomorrow"), "--from tomorrow: neither ISO 8601"),
        (("FILE", "--from", "2026-01-02", "--to", "2026-01-01"), "is not before --to"),
        (("FILE", "--from", "2000-01-01", "--to", "2000-01-02"), "no records and no judged"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    arguments: tuple[str, ...], message: str, judged: Path, tmp_path: Path
) -> None:
    given = [str(judged / "coalmine.yaml") if word == "FILE" else word for word in arguments]
    result = _run(judged, *given, "--output", tmp_path / "report.html")
    assert result.exit_code == 1
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_performance_is_that_of_the_whole_range(judged: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert _run(judged, judged / "coalmine.yaml", "--output", out).exit_code == 0
    page = _Page()
    page.feed(out.read_text("utf-8"))
    texts = [text.strip() for text in page.texts if text.strip()]
    assert "1,200 of 1,200 rows are labelled (100.0%)." in texts
    place = texts.index("accuracy", texts.index("upper"))
    value, lower, upper = map(float, texts[place + 1 : place + 4])
    assert value == pytest.approx(0.8, abs=1e-4)
    assert 0.7 < lower < value < upper < 0.9
