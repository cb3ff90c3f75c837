"""Events of KServe's logger: what is taken, what is joined, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from coalmine.clock import ManualClock
from coalmine.modeldir import ModelCard, write_card
from coalmine.records import LogFullError, RecordLog, WindowLimits, create_collector
from coalmine.records._cloudevents import read_events
from coalmine.records._signatures import Signatures

REQUEST = {"instances": [[0.5] * 24, [1.5] * 24]}
RESPONSE = {
    "predictions": [
        {"label": 1, "probabilities": [0.1, 0.8, 0.1]},
        {"label": 2, "probabilities": [0.1, 0.1, 0.8]},
    ]
}


@pytest.fixture
def models(tmp_path: Path, card: ModelCard) -> Path:
    for version in ("9", "10"):
        (tmp_path / "models" / version).mkdir(parents=True)
        write_card(tmp_path / "models" / version, card)
    return tmp_path / "models"


@asynccontextmanager
async def _client(log: Any, clock: ManualClock, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_collector(log, clock=clock, **more)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://collector") as client,
    ):
        yield client


@pytest.fixture
async def client(
    log: RecordLog, clock: ManualClock, models: Path
) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(log, clock, models=models) as opened:
        yield opened


def _headers(kind: str, name: str = "a", **more: str) -> dict[str, str]:
    second = 1 if kind == "request" else 2
    return {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": name,
        "ce-type": f"org.kubeflow.serving.inference.{kind}",
        "ce-source": "pod-1",
        "ce-time": f"2026-11-21T19:00:0{second}.5Z",
        "ce-inferenceservicename": "ev-battery",
        "ce-component": "predictor",
        **{f"ce-{key}": value for key, value in more.items()},
    }


def _structured(kind: str, name: str, data: Any, **more: Any) -> dict[str, Any]:
    attributes = {
        key.removeprefix("ce-"): value
        for key, value in _headers(kind, name).items()
        if key.startswith("ce-")
    }
    return {**attributes, "datacontenttype": "application/json", "data": data, **more}


async def _send(
    client: httpx.AsyncClient, kind: str, content: Any, name: str = "a", **more: str
) -> Any:
    return await client.post("/v1/events", json=content, headers=_headers(kind, name, **more))


def _rows(log: RecordLog) -> list[dict[str, Any]]:
    return [row for _, batch in log.read(0, limit_rows=10_000) for row in batch.to_pylist()]


async def test_two_events_make_the_rows_of_a_call(
    client: httpx.AsyncClient, log: RecordLog
) -> None:
    assert (await _send(client, "request", REQUEST)).json() == {"waiting": 1}
    assert log.stats().rows == 0
    version = json.dumps({"coalmine/model-version": "9", "coalmine/arm": "canary"})
    first = await _send(client, "request", REQUEST, "b", annotations=version)
    assert first.json() == {"waiting": 1}
    assert (await _send(client, "response", RESPONSE)).json() == {"joined": 1}
    answer = await _send(client, "response", RESPONSE, "b", annotations=version)
    assert (answer.status_code, answer.json()) == (200, {"joined": 1})
    rows = _rows(log)
    assert [(row["request_id"], row["row"]) for row in rows] == [
        ("a", 0), ("a", 1), ("b", 0), ("b", 1)
    ]  # fmt: skip
    first_row = rows[0]
    assert (first_row["status"], first_row["error"], first_row["protocol"]) == (200, None, "v1")
    assert first_row["latency_us"] == 1_000_000
    assert (first_row["f0"], first_row["label"]) == (0.5, 1)
    assert first_row["pod"] == "pod-1"
    assert (first_row["model_version"], first_row["arm"]) == ("unknown", "stable"), "two versions"
    assert (rows[2]["model_version"], rows[2]["arm"]) == ("9", "canary")


async def test_structured_and_batched_events(client: httpx.AsyncClient, log: RecordLog) -> None:
    single = {"content-type": "application/cloudevents+json; charset=utf-8"}
    answer = await client.post(
        "/v1/events", content=json.dumps(_structured("request", "a", REQUEST)), headers=single
    )
    assert answer.json() == {"waiting": 1}
    encoded = base64.b64encode(json.dumps(RESPONSE).encode()).decode()
    bare = _structured("response", "a", None, data_base64=encoded)
    del bare["data"]
    batch = [
        bare,
        _structured("response", "b", RESPONSE),
        _structured("request", "b", REQUEST),
        _structured("request", "c", REQUEST),
        _structured("request", "c", REQUEST),
        _structured("request", "d", REQUEST, component="transformer"),
    ]
    headers = {"content-type": "application/cloudevents-batch+json"}
    answer = await client.post("/v1/events", content=json.dumps(batch), headers=headers)
    assert answer.json() == {"joined": 2, "waiting": 2, "duplicate": 1, "ignored": 1}
    assert {row["request_id"] for row in _rows(log)} == {"a", "b"}


async def test_calls_of_two_arms_in_one_delivery(client: httpx.AsyncClient, log: RecordLog) -> None:
    batch = [
        _structured(kind, arm, content, annotations=json.dumps({"coalmine/arm": arm}))
        for arm in ("canary", "stable")
        for kind, content in (("request", REQUEST), ("response", RESPONSE))
    ]
    headers = {"content-type": "application/cloudevents-batch+json"}
    answer = await client.post("/v1/events", content=json.dumps(batch), headers=headers)
    assert answer.json() == {"waiting": 2, "joined": 2}
    assert {(row["request_id"], row["arm"]) for row in _rows(log)} == {
        ("canary", "canary"), ("stable", "stable"),
    }  # fmt: skip


async def test_calls_of_one_model_of_which_one_says_nothing(
    log: RecordLog, clock: ManualClock
) -> None:
    """They have other columns, and come in one delivery."""
    batch = [
        _structured(kind, name, content)
        for name, calls in (("none", ({"instances": []}, RESPONSE)), ("good", (REQUEST, RESPONSE)))
        for kind, content in zip(("request", "response"), calls, strict=True)
    ]
    headers = {"content-type": "application/cloudevents-batch+json"}
    async with _client(log, clock) as client:
        answer = await client.post("/v1/events", content=json.dumps(batch), headers=headers)
        assert answer.json() == {"waiting": 2, "undecodable": 1, "joined": 1}
    assert {row["request_id"] for row in _rows(log)} == {"none", "good"}


async def test_a_duplicate_changes_nothing(client: httpx.AsyncClient, log: RecordLog) -> None:
    for kind, content in (("request", REQUEST), ("response", RESPONSE)):
        await _send(client, kind, content)
        assert (await _send(client, kind, content)).json() == {"duplicate": 1}
    assert (await _send(client, "request", REQUEST)).json() == {"duplicate": 1}
    assert log.stats().rows == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ce-type": "org.example.other"}, "type 'org.example.other' is not one of KServe's"),
        ({"ce-type": ""}, "the attribute 'type' .Ce-Type. is missing"),
        ({"ce-id": ""}, "the attribute 'id' .Ce-Id. is missing"),
        ({"ce-specversion": "0.3"}, "specversion '0.3' is not 1.0"),
        ({"ce-time": "yesterday"}, "the attribute 'time' is not RFC 3339"),
        ({"ce-time": "2026-11-21T19:00:00"}, "has no time zone"),
        ({"ce-metadata": "{"}, "the attribute 'metadata' is not JSON"),
        ({"ce-annotations": "[1]"}, "the attribute 'annotations' must be a JSON object"),
        ({"ce-id": "x" * 2000}, "the attribute 'id' must be a text of at most 1024"),
        ({"content-type": "application/cloudevents+json"}, "the attribute 'specversion'"),
        ({"content-type": "application/cloudevents-batch+json"}, "must be a list"),
    ],
)
async def test_what_is_no_event_is_the_senders_mistake(
    change: dict[str, str], message: str, client: httpx.AsyncClient, log: RecordLog
) -> None:
    headers = {**_headers("request"), **change}
    answer = await client.post("/v1/events", json=REQUEST, headers=headers)
    assert answer.status_code == 400
    assert re.search(message, answer.json()["error"])
    assert log.stats().rows == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", "the body is not JSON"),
        (b"[3]", "event 0: an event must be a JSON object"),
        (json.dumps([_structured("request", "a", {}), {}]).encode(), "event 1: the attribute"),
        (
            json.dumps([_structured("request", "a", {}, data_base64="")]).encode(),
            "event 0: an event has either",
        ),
        (
            json.dumps([_structured("request", "a", None, data_base64="?")]).encode(),
            "event 0: `data_base64` is not base64",
        ),
    ],
)
async def test_a_batch_with_a_wrong_event_is_refused_whole(
    content: bytes, message: str, client: httpx.AsyncClient
) -> None:
    headers = {"content-type": "application/cloudevents-batch+json"}
    answer = await client.post("/v1/events", content=content, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(message)
    assert (await _send(client, "request", REQUEST)).json() == {"waiting": 1}


async def test_orphans_are_kept_and_counted(
    log: RecordLog, clock: ManualClock, models: Path
) -> None:
    window = WindowLimits(seconds=10.0)
    async with _client(log, clock, models=models, event_window=window) as client:
        await _send(client, "request", REQUEST, "asked")
        await _send(client, "response", RESPONSE, "answered")
        clock.advance(11.0)
        await _send(client, "request", REQUEST, "new")
        rows = _rows(log)
        metrics = (await client.get("/metrics")).text
    assert [(row["request_id"], row["row"], row["status"]) for row in rows] == [
        ("asked", 0, 0), ("asked", 1, 0), ("answered", 0, 0), ("answered", 1, 0),
    ]  # fmt: skip
    assert rows[0]["f0"] == 0.5
    assert rows[0]["label"] is None
    assert rows[0]["error"] == "orphan: no response was logged in time"
    assert rows[2]["f0"] is None
    assert rows[2]["label"] == 1
    assert rows[2]["error"] == "orphan: no request was logged in time"
    for line in (
        'coalmine_collector_events_total{fate="orphan_request"} 1.0',
        'coalmine_collector_events_total{fate="orphan_response"} 1.0',
        "coalmine_collector_events_waiting 1.0",
    ):
        assert line in metrics
    assert {row["request_id"] for row in _rows(log)} == {"asked", "answered", "new"}, (
        "what waits at the end is kept too"
    )


async def test_a_full_window_spills_the_oldest(
    log: RecordLog, clock: ManualClock, models: Path
) -> None:
    async with _client(log, clock, models=models, event_window=WindowLimits(events=3)) as client:
        for number in range(5):
            await _send(client, "request", REQUEST, f"r{number}")
        assert {row["request_id"] for row in _rows(log)} == {"r0", "r1"}
        assert (await _send(client, "response", RESPONSE, "r4")).json() == {"joined": 1}
        assert 'fate="spilled"} 2.0' in (await client.get("/metrics")).text


async def test_a_window_full_of_bytes_spills_too(
    log: RecordLog, clock: ManualClock, models: Path
) -> None:
    window = WindowLimits(bytes=3 * len(json.dumps(REQUEST)))
    async with _client(log, clock, models=models, event_window=window) as client:
        for number in range(20):  # what has been joined takes no room any more
            await _send(client, "request", REQUEST, f"j{number}")
            await _send(client, "response", RESPONSE, f"j{number}")
        for number in range(5):
            await _send(client, "request", REQUEST, f"r{number}")
        kept = {row["request_id"] for row in _rows(log)}
        assert {name for name in kept if name[0] == "r"} == {"r0", "r1"}


async def test_calls_that_were_joined_are_known_for_a_while(
    log: RecordLog, clock: ManualClock, models: Path
) -> None:
    window = WindowLimits(seconds=10.0, events=3)
    async with _client(log, clock, models=models, event_window=window) as client:

        async def call(name: str) -> list[dict[str, int]]:
            sent = (("request", REQUEST), ("response", RESPONSE))
            return [(await _send(client, kind, body, name)).json() for kind, body in sent]

        new, known = [{"waiting": 1}, {"joined": 1}], [{"duplicate": 1}, {"duplicate": 1}]
        assert [await call(name) for name in "abc"] == [new] * 3
        assert [await call(name) for name in "abc"] == [known] * 3
        assert await call("d") == new
        assert await call("a") == new, "as many as may wait, the last of them"
        clock.advance(10.5)
        await _send(client, "request", REQUEST, "later")
        assert await call("a") == new, "they are forgotten"


async def test_what_neither_the_log_nor_the_window_has_room_for_is_lost(
    log: RecordLog, clock: ManualClock, models: Path
) -> None:
    full = _Full(log)
    window = WindowLimits(events=1)
    async with _client(full, clock, models=models, event_window=window) as client:
        for name in "ab":
            await _send(client, "request", REQUEST, name)
        assert (
            'coalmine_collector_events_total{fate="lost"} 1.0'
            in (await client.get("/metrics")).text
        )
        full.full = False
    assert {row["request_id"] for row in _rows(log)} == {"b"}


async def test_what_does_not_fit_the_model_is_kept_and_says_why(
    client: httpx.AsyncClient, log: RecordLog
) -> None:
    wrong = [
        ({"instances": [[1.0, 2.0]]}, RESPONSE, "request: input 'features'"),
        (REQUEST, {"predictions": RESPONSE["predictions"][:1]}, "2 instances were asked, 1"),
        (REQUEST, {"error": "no"}, "response: neither `predictions` nor `outputs`"),
        (REQUEST, [1], "response: not a JSON object"),
    ]
    for number, (request, response, _) in enumerate(wrong):
        await _send(client, "request", request, str(number))
        answer = await _send(client, "response", response, str(number))
        assert (answer.status_code, answer.json()) == (200, {"undecodable": 1})
    rows = _rows(log)
    assert {row["status"] for row in rows} == {0}
    seen = {row["request_id"]: row for row in rows}
    for number, (_, _, message) in enumerate(wrong):
        assert message in seen[str(number)]["error"]
    known = [(seen[str(number)]["f0"], seen[str(number)]["label"]) for number in range(len(wrong))]
    assert known == [(None, 2), (None, None), (1.5, None), (1.5, None)]


async def test_bytes_of_all_kinds_never_break_it(client: httpx.AsyncClient, log: RecordLog) -> None:
    bodies = [b"", b"\xff" * 50, b'{"inputs": [{"name": 3}]}', b'{"inputs": 5}', b"null", b"{}{}"]
    bodies += [b'{"inputs": [{"name": "features", "shape": [2, 12], "datatype": "FP32"}]}' + b"1"]
    bodies += [b'{"instances": []}', b'{"outputs": {"label": 3}}', b'{"predictions": [null]}']
    bodies += [b"[" * 100_000, b'{"a":' * 100_000, b'{"instances": [[NaN, ' + b"9" * 30 + b"]]}"]
    bodies += [b'{"id": "\xf0\x9f\x94\x8b", "inputs": []}\x00\x01', b'{"predictions": [{}]}']
    for number, body in enumerate(bodies):
        for kind in ("request", "response"):
            headers = _headers(kind, f"n{number}")
            answer = await client.post("/v1/events", content=body, headers=headers)
            assert answer.status_code == 200, answer.text
    assert len({row["request_id"] for row in _rows(log)}) == len(bodies)


async def test_ids_are_those_that_labels_are_given_by(
    client: httpx.AsyncClient, log: RecordLog
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    kept: list[tuple[dict[str, str], Any, str]] = [
        ({"metadata": json.dumps({"X-Request-Id": ["mine"]})}, REQUEST, "mine"),
        ({"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}, REQUEST, trace),
        ({"metadata": "{}"}, {**_v2(), "id": "of-the-body"}, "of-the-body"),
        ({}, REQUEST, "3"),
        ({}, {**_v2(), "id": "of-the-body"}, "4"),  # as our server does: first what Ce-Id says
    ]
    made_up = "0e8c3dd4-8ad7-4b3a-9c55-3f1f6f2f8a11"
    kept += [
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, REQUEST, "5"),
        ({}, {**_v2(), "id": 5}, made_up.replace("0", "1")),
    ]
    for number, (more, request, _) in enumerate(kept):
        expected = kept[number][2]
        name = made_up if expected == "of-the-body" else str(number)
        if len(expected) == len(made_up):
            name = expected
        await _send(client, "request", request, name, **more)
        assert (await _send(client, "response", RESPONSE, name)).json() == {"joined": 1}
    assert [row["request_id"] for row in _rows(log)][::2] == [name for *_, name in kept]


def _v2() -> dict[str, Any]:
    tensor = {"name": "features", "datatype": "FP32", "shape": [2, 24], "data": [0.5] * 48}
    return {"inputs": [tensor]}


async def test_without_a_model_directory_the_columns_are_learned(
    log: RecordLog, clock: ManualClock
) -> None:
    outputs = [{"name": "y", "datatype": "INT64", "shape": [2], "data": [1, 2]}]
    response = {"model_name": "m", "model_version": "7", "outputs": outputs}
    async with _client(log, clock) as client:
        await _send(client, "request", _v2())
        assert (await _send(client, "response", response)).json() == {"joined": 1}
        await _send(client, "request", {"instances": [{"mode": "eco", "soc": 0.5}]}, "b")
        answer = await _send(client, "response", {"predictions": [0.25]}, "b")
        assert answer.json() == {"joined": 1}
        await _send(client, "request", {"instances": [[1, 2]]}, "c", inferenceservicename="new")
    first, _, third, orphan = _rows(log)
    assert (first["model_version"], first["features_23"], first["y"]) == ("7", 0.5, 1)
    assert (third["mode"], third["soc"], third["output"]) == ("eco", 0.5, 0.25)
    assert "no whole call of it was seen yet" in orphan["error"]


async def test_a_shape_that_claims_to_be_wide_is_not_learned_from(
    log: RecordLog, clock: ManualClock
) -> None:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 10**17], "data": [1]}]
    async with _client(log, clock) as client:
        await _send(client, "request", {"inputs": inputs}, "a")
        answer = await _send(client, "response", {"predictions": [1]}, "a")
        assert (answer.status_code, answer.json()) == (200, {"undecodable": 1})
    (row,) = _rows(log)
    assert "request: " in row["error"]


_TENSOR = {"name": "features", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 0.5]}
_NUMBER = {"name": "y", "datatype": "FP32", "shape": [1], "data": [1]}
#: Calls that say nothing of a model, or nothing that makes a record.
STRANGE: list[tuple[Any, Any]] = [
    ({"inputs": [{**_TENSOR, "name": []}]}, {"predictions": [1]}),
    ({"instances": [[1, 2]]}, {"outputs": [{**_NUMBER, "name": {}}]}),
    ({"inputs": [{**_TENSOR, "datatype": []}]}, {"outputs": [{**_NUMBER, "datatype": {}}]}),
    ({"inputs": [_TENSOR, {"shape": [1]}]}, {"outputs": [_NUMBER]}),
    ({"inputs": [_TENSOR, {**_TENSOR, "name": "more", "shape": 1}]}, {"outputs": [_NUMBER]}),
    ({"inputs": [_TENSOR, _TENSOR]}, {"outputs": [_NUMBER]}),
    ({"inputs": {"n": 5}}, {"predictions": [1]}),
    ({"instances": [{"": 1}]}, {"predictions": [1]}),
    ({"instances": [{"request_id": 1}]}, {"predictions": [1]}),
]


@pytest.mark.parametrize("learned", [False, True], ids=["known", "learned"])
@pytest.mark.parametrize(("request_", "response"), STRANGE)
async def test_a_strange_call_is_kept_as_undecodable_and_disturbs_no_other(
    request_: Any, response: Any, learned: bool, log: RecordLog, clock: ManualClock, models: Path
) -> None:
    """Neither those of its delivery, nor those whose time is up together with its own."""
    together = [
        _structured(kind, name, content, inferenceservicename=service)
        for name, service, calls in (
            ("strange", "ev-battery", (request_, response)),
            ("good", "another", (REQUEST, RESPONSE)),
        )
        for kind, content in zip(("request", "response"), calls, strict=True)
    ]
    headers = {"content-type": "application/cloudevents-batch+json"}
    async with _client(log, clock, models=None if learned else models) as client:
        answer = await client.post("/v1/events", content=json.dumps(together), headers=headers)
        assert answer.json() == {"waiting": 2, "undecodable": 1, "joined": 1}
        await _send(client, "request", request_, "strange orphan")
        await _send(client, "request", REQUEST, "orphan")
        clock.advance(61.0)
        assert (await _send(client, "request", REQUEST, "next")).json() == {"waiting": 1}
        kept = {row["request_id"] for row in _rows(log)}
    assert kept == {"strange", "good", "strange orphan", "orphan"}


async def test_a_card_whose_columns_make_no_record_leaves_what_every_record_has(
    log: RecordLog, clock: ManualClock, models: Path, card: ModelCard
) -> None:
    tensor = card.inputs[0]
    columns = (tensor.columns[0].model_copy(update={"name": "status"}), *tensor.columns[1:])
    inputs = (tensor.model_copy(update={"columns": columns}),)
    (models / "11").mkdir()
    write_card(models / "11", card.model_copy(update={"inputs": inputs}))
    version = json.dumps({"coalmine/model-version": "11"})
    async with _client(log, clock, models=models) as client:
        await _send(client, "request", REQUEST, annotations=version)
        answer = await _send(client, "response", RESPONSE, annotations=version)
        assert (answer.status_code, answer.json()) == (200, {"undecodable": 1})
    (row,) = _rows(log)
    assert row["model_version"] == "11"
    assert "'status'" in row["error"]


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
async def test_a_time_that_no_calendar_has_is_the_senders_mistake(
    client: httpx.AsyncClient, log: RecordLog, time: str
) -> None:
    answer = await _send(client, "request", REQUEST, time=time)
    assert (answer.status_code, log.stats().rows) == (400, 0)
    assert "'time'" in answer.json()["error"]


async def test_a_name_that_no_log_takes_loses_that_call_alone(
    client: httpx.AsyncClient, log: RecordLog
) -> None:
    nobody = {"inferenceservicename": "__HIVE_DEFAULT_PARTITION__"}
    nothing = json.dumps({"coalmine/arm": ""})
    for name, more in (("lost", nobody), ("good", {"annotations": nothing})):
        await _send(client, "request", REQUEST, name, **more)
        answer = await _send(client, "response", RESPONSE, name, **more)
        assert answer.json() == ({"lost": 1} if more is nobody else {"joined": 1})
    assert {(row["request_id"], row["arm"]) for row in _rows(log)} == {("good", "stable")}


async def test_a_model_directory_may_come_later(
    log: RecordLog, clock: ManualClock, tmp_path: Path, card: ModelCard
) -> None:
    (tmp_path / "models").mkdir()
    async with _client(log, clock, models=tmp_path / "models") as client:
        (tmp_path / "models" / "4").mkdir()
        write_card(tmp_path / "models" / "4", card)
        await _send(client, "request", REQUEST)
        assert (await _send(client, "response", RESPONSE)).json() == {"joined": 1}
    assert {row["model_version"] for row in _rows(log)} == {"4"}, "the only one there is"


def test_only_so_many_models_are_learned() -> None:
    signatures = Signatures(None)
    for number in range(1100):
        name = f"m{number}"
        (event,) = read_events(b"", _headers("request", inferenceservicename=name), now=0.0)
        deployed = signatures.of(event, {"instances": [[1, 2]]}, {"predictions": [1]})
        assert deployed.card.name == name
    assert len(signatures._learned) <= 1024


class _Full:
    """A log without space, until it is given some. `tried` is told of each attempt."""

    def __init__(self, log: RecordLog) -> None:
        self._log = log
        self.full = True
        self.tried: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, batch: Any, **more: Any) -> int:
        self.tried()
        if self.full:
            raise LogFullError("no space left")
        return self._log.append(batch, **more)


async def test_a_full_log_acknowledges_nothing_and_the_event_can_come_again(
    log: RecordLog, clock: ManualClock, models: Path
) -> None:
    full = _Full(log)
    async with _client(full, clock, models=models) as client:
        await _send(client, "request", REQUEST)
        answer = await _send(client, "response", RESPONSE)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        full.full = False
        assert (await _send(client, "response", RESPONSE)).json() == {"joined": 1}
    assert len(_rows(log)) == 2


async def test_a_half_that_comes_while_the_other_cannot_be_stored_joins_it(
    log: RecordLog, clock: ManualClock, models: Path
) -> None:
    full = _Full(log)
    trying, came = threading.Event(), threading.Event()
    async with _client(full, clock, models=models) as client:
        await _send(client, "request", REQUEST, "late")
        clock.advance(61.0)
        full.tried = lambda: (trying.set(), came.wait(60))  # type: ignore[func-returns-value]
        other = asyncio.create_task(_send(client, "request", REQUEST, "other"))
        assert await asyncio.to_thread(trying.wait, 60)
        full.tried = lambda: None
        # Its other half: nobody waits for it, as it seems, while the log is tried.
        assert (await _send(client, "response", RESPONSE, "late")).json() == {"waiting": 1}
        came.set()
        assert (await other).json() == {"waiting": 1}
        full.full = False
        assert (await _send(client, "response", RESPONSE, "other")).json() == {"joined": 1}
        assert (await _send(client, "response", RESPONSE, "late")).json() == {"duplicate": 1}
    rows = _rows(log)
    assert {(row["request_id"], row["status"]) for row in rows} == {("late", 200), ("other", 200)}
