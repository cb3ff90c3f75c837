"""Sources of evidence beside the monitor: a real Prometheus, and scrapes of real metrics."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import yaml

from coalmine.arms import Arm
from coalmine.clock import SYSTEM_CLOCK, ManualClock
from coalmine.rollout import (
    Evidence,
    EvidenceUnavailable,
    Measured,
    Policy,
    PrometheusEvidence,
    ScrapeEvidence,
    Window,
    decide,
    replay,
    select,
)
from coalmine.rollout._combine import combine

from .conftest import Stage
from .metrics_server import NAME, MetricsServer

PROMETHEUS = shutil.which("prometheus")


@pytest.fixture
def arms() -> Iterator[dict[Arm, MetricsServer]]:
    servers = {
        Arm.STABLE: MetricsServer("stable", "3"),
        Arm.CANARY: MetricsServer("canary", "4"),
    }
    yield servers
    for server in servers.values():
        server.stop()


def of(measured: Measured, arm: str) -> dict[float, tuple[int, int | None]]:
    return {b.time: (b.requests, b.errors) for b in measured.blocks if b.arm == arm}


# -- scrapes ---------------------------------------------------------------------------------------


async def test_scrapes_count_what_was_answered_and_survive_a_restart(
    arms: dict[Arm, MetricsServer],
) -> None:
    clock = ManualClock(start=1000.0)
    urls = {arm: server.url for arm, server in arms.items()}
    source = ScrapeEvidence(
        {**urls, Arm.SHADOW: "http://127.0.0.1:1"}, model_name=NAME, block_s=10.0, clock=clock
    )
    stable, canary = arms.values()

    async def scrapes(times: int) -> None:
        for _ in range(times):
            clock.advance(5.0)
            stable.answer(8, seconds=0.0002)
            canary.answer(3, seconds=0.02)
            canary.answer(1, status=500)
            await source.scrape()

    await scrapes(5)
    canary.stop()
    clock.advance(5.0)
    await source.scrape()
    clock.advance(5.0)
    await source.scrape()
    canary.start()
    await scrapes(4)
    content = await source.fetch(1000.0)
    measured = source.read(content)
    assert measured == source.read(content), "an answer is read again from its bytes alone"
    # One is down at 1030 and 1035: from 1025 to 1040 nobody knows.
    assert of(measured, "canary") == {1010.0: (8, 2), 1040.0: (8, 2)}
    assert set(of(measured, "stable")) == {1010.0, 1020.0, 1030.0, 1040.0}
    assert of(measured, "stable")[1010.0] == (16, 0)
    (block,) = [b for b in measured.blocks if (b.arm, b.time) == ("stable", 1010.0)]
    assert block.latency_counts is not None
    assert sum(block.latency_counts) == 16
    assert [query.text for query in measured.queries][0] == f"GET {stable.url}/metrics"
    await source.aclose()


async def test_servers_that_never_answer_are_no_evidence() -> None:
    clock = ManualClock(start=1000.0)
    source = ScrapeEvidence(
        {Arm.STABLE: "http://127.0.0.1:1"}, model_name=NAME, block_s=10.0, clock=clock
    )
    await source.scrape()
    measured = source.read(await source.fetch(1000.0))
    assert measured.blocks == ()
    evidence = select(measured, windows=WINDOWS, candidate="4", stable="3", block_s=10.0)
    assert decide(evidence, Policy()).kind == "insufficient_evidence"
    await source.aclose()


# -- a real Prometheus -----------------------------------------------------------------------------

WINDOWS = (Window(arm=Arm.CANARY, opened_at=0.0, weights={Arm.STABLE: 50, Arm.CANARY: 50}),)


@pytest.fixture
def prometheus(tmp_path: Path, arms: dict[Arm, MetricsServer]) -> Iterator[str]:
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {
                "job_name": arm.value,
                "static_configs": [{"targets": [server.url.removeprefix("http://")]}],
            }
            for arm, server in arms.items()
        ],
    }
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "prometheus.log").open("wb"))
        process = stack.enter_context(
            subprocess.Popen(
                [
                    str(PROMETHEUS),
                    f"--config.file={tmp_path / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={tmp_path / 'data'}",
                    f"--web.listen-address={address}",
                ],
                stdout=log,
                stderr=log,
            )
        )
        stack.callback(process.terminate)
        until = time.monotonic() + 60.0
        while True:
            try:
                if httpx.get(f"http://{address}/-/ready", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                assert time.monotonic() < until, (tmp_path / "prometheus.log").read_text()
            time.sleep(0.1)
        yield f"http://{address}"


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not on the PATH")
@pytest.mark.slow
async def test_prometheus_counts_both_arms_and_is_silent_about_one_that_is_down(
    prometheus: str, arms: dict[Arm, MetricsServer]
) -> None:
    source = PrometheusEvidence(prometheus, model_name=NAME, block_s=3.0, clock=SYSTEM_CLOCK)
    stable, canary = arms.values()
    begin = SYSTEM_CLOCK.time()

    async def traffic(seconds: float) -> None:
        until = SYSTEM_CLOCK.monotonic() + seconds
        while SYSTEM_CLOCK.monotonic() < until:
            stable.answer(4)
            canary.answer(3)
            canary.answer(1, status=503)
            await asyncio.sleep(0.05)

    both: set[float] = set()
    for _ in range(15):  # a busy machine misses scrapes, and then there is nothing to compare
        await traffic(4.0)
        measured = source.read(await source.fetch(begin))
        both = of(measured, "stable").keys() & of(measured, "canary").keys()
        if len(both) >= 2:
            break
    assert measured.source == "Prometheus"
    assert [query.text.split("[")[0] for query in measured.queries] == [
        'coalmine_requests_total{model_name="m"}',
        'coalmine_request_duration_seconds_bucket{model_name="m"}',
    ]
    assert len(both) >= 2
    for block in both:
        requests, errors = of(measured, "canary")[block]
        assert errors is not None
        assert abs(requests / 4 - errors) <= 3
        assert of(measured, "stable")[block][1] == 0
    counted = [b for b in measured.blocks if b.latency_counts is not None]
    assert counted
    assert all(sum(b.latency_counts or ()) == b.requests for b in counted)

    canary.stop()
    down = SYSTEM_CLOCK.time()
    canary_alive = dict(of(measured, "canary"))
    await asyncio.sleep(7.0)
    silent = source.read(await source.fetch(begin))
    assert max(of(silent, "canary")) <= max(down, max(canary_alive)), "no zero where none was read"
    assert max(of(silent, "stable")) > down - 3.0
    canary.start()
    assert (await source.fetch(begin)) != b""
    await source.aclose()


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not on the PATH")
@pytest.mark.slow
async def test_a_model_that_prometheus_does_not_know_is_no_evidence(prometheus: str) -> None:
    source = PrometheusEvidence(prometheus, model_name="other", block_s=3.0, clock=SYSTEM_CLOCK)
    measured = source.read(await source.fetch(SYSTEM_CLOCK.time() - 60.0))
    assert measured.blocks == ()
    evidence = select(measured, windows=WINDOWS, candidate="4", stable="3", block_s=3.0)
    assert decide(evidence, Policy()).kind == "insufficient_evidence"
    broken = PrometheusEvidence(prometheus, model_name='a"b', block_s=3.0, clock=SYSTEM_CLOCK)
    with pytest.raises(EvidenceUnavailable, match="400"):
        await broken.fetch(SYSTEM_CLOCK.time())
    await source.aclose()
    await broken.aclose()


async def test_a_prometheus_that_is_not_there_is_said() -> None:
    source = PrometheusEvidence(
        "http://127.0.0.1:1", model_name=NAME, block_s=3.0, clock=SYSTEM_CLOCK
    )
    with pytest.raises(EvidenceUnavailable, match="Prometheus: "):
        await source.fetch(0.0)
    for content in (b"x", b"[]", b'{"at": 1}', b'{"at":1,"queries":[],"answers":[{"data":{}}]}'):
        with pytest.raises(EvidenceUnavailable, match="not as its API is"):
            source.read(content)
    await source.aclose()


# -- together with the monitor ---------------------------------------------------------------------


class Counted:
    """A source that counted nothing but requests, in blocks of five seconds."""

    block_s = 5.0

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def fetch(self, since: float) -> bytes:
        answer = self.stage.traffic.answer(since)
        cells: dict[tuple[float, str, str], list[int]] = {}
        for block in answer["blocks"]:
            at = block["time"] // self.block_s * self.block_s
            cell = cells.setdefault((at, block["version"], block["arm"]), [0, 0])
            cell[0] += block["requests"]
            cell[1] += block["errors"]
        blocks = [
            {"time": t, "version": v, "arm": a, "requests": n, "errors": e, "latency_counts": None}
            for (t, v, a), (n, e) in cells.items()
        ]
        queries = [{"name": "requests", "text": "sum(requests)"}]
        said = {"evaluated_to": answer["evaluated_to"], "latency_edges_us": [], "blocks": blocks}
        return json.dumps({**said, "source": "elsewhere", "queries": queries}).encode()

    def read(self, content: bytes) -> Measured:
        return Measured.model_validate_json(content)

    async def aclose(self) -> None:
        pass


async def test_requests_of_one_source_and_answers_of_the_other_are_judged_together(
    stage: Stage,
) -> None:
    await stage.with_champion()
    monitor = stage.controller.judge._sources[0]
    stage.controller.judge._sources = (Counted(stage), monitor)
    stage.traffic.errors["4"] = 0.5
    id = stage.start("4", shadow=False)
    done = await stage.until_ended(id)
    assert (done.state, done.verdict) == ("rolled_back", "regression")
    entry = next(e for e in reversed(stage.store.ledger(id)) if "verdict" in e.body)
    assert entry.body["asked"] == "elsewhere; answers: performance monitor"
    assert entry.body["queries"] == [{"name": "requests", "text": "sum(requests)"}]
    assert entry.body["source"].count("sha256:") == 2
    evidence = Evidence.model_validate(entry.body["evidence"])
    errors = [b for b in evidence.blocks if b.candidate.errors is not None]
    labelled = [b for b in evidence.blocks if b.candidate.labelled]
    assert errors
    assert labelled
    assert not set(map(id_of, errors)) & set(map(id_of, labelled))
    assert all(each.same for each in replay(stage.database, id))


def id_of(block: object) -> int:
    return id(block)


async def test_one_silent_source_is_no_pass(stage: Stage) -> None:
    """All labels are there, and nobody counted the requests."""
    await stage.with_champion()
    monitor = stage.controller.judge._sources[0]

    class Silent(Counted):
        async def fetch(self, since: float) -> bytes:
            said = json.loads(await super().fetch(since))
            return json.dumps({**said, "blocks": []}).encode()

    stage.controller.judge._sources = (Silent(stage), monitor)
    id = stage.start("4", shadow=False)
    await stage.tick(300.0)
    assert stage.rollout(id).step == 0
    assert stage.rollout(id).verdict in (None, "insufficient_evidence")


def test_combining_takes_the_shorter_time() -> None:
    def evidence(to: float, seconds: float) -> Evidence:
        return Evidence(
            evaluated_to=to,
            stage_seconds=seconds,
            slow_edge_us=None,
            request_size=None,
            blocks=(),
            pairs=(),
        )

    found = combine(evidence(10.0, 5.0), evidence(20.0, 3.0))
    assert (found.evaluated_to, found.stage_seconds) == (10.0, 3.0)
