"""Events of KServe's logger: what is taken, what is joined, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from coalmine.clock import ManualClock
from coalmine.records import LogFullError, RecordLog, WindowLimits

from .calls import REQUEST, RESPONSE, collecting, headers_of, rows_of, send, structured, v2_request


async def test_two_events_make_the_rows_of_a_call(
    client: httpx.AsyncClient, log: RecordLog
) -> None:
    assert (await send(client, "request", REQUEST)).json() == {"waiting": 1}
    assert log.stats().rows == 0
    version = json.dumps({"coalmine/model-version": "9", "coalmine/arm": "canary"})
    first = await send(client, "request", REQUEST, "b", annotations=version)
    assert first.json() == {"waiting": 1}
    assert (await send(client, "response", RESPONSE)).json() == {"joined": 1}
    answer = await send(client, "response", RESPONSE, "b", annotations=version)
    assert (answer.status_code, answer.json()) == (200, {"joined": 1})
    rows = rows_of(log)
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
        "/v1/events", content=json.dumps(structured("request", "a", REQUEST)), headers=single
    )
    assert answer.json() == {"waiting": 1}
    encoded = base64.b64encode(json.dumps(RESPONSE).encode()).decode()
    bare = structured("response", "a", None, data_base64=encoded)
    del bare["data"]
    batch = [
        bare,
        structured("response", "b", RESPONSE),
        structured("request", "b", REQUEST),
        structured("request", "c", REQUEST),
        structured("request", "c", REQUEST),
        structured("request", "d", REQUEST, component="transformer"),
    ]
    headers = {"content-type": "application/cloudevents-batch+json"}
    answer = await client.post("/v1/events", content=json.dumps(batch), headers=headers)
    assert answer.json() == {"joined": 2, "waiting": 2, "duplicate": 1, "ignored": 1}
    assert {row["request_id"] for row in rows_of(log)} == {"a", "b"}


async def test_calls_of_two_arms_in_one_delivery(client: httpx.AsyncClient, log: RecordLog) -> None:
    batch = [
        structured(kind, arm, content, annotations=json.dumps({"coalmine/arm": arm}))
        for arm in ("canary", "stable")
        for kind, content in (("request", REQUEST), ("response", RESPONSE))
    ]
    headers = {"content-type": "application/cloudevents-batch+json"}
    answer = await client.post("/v1/events", content=json.dumps(batch), headers=headers)
    assert answer.json() == {"waiting": 2, "joined": 2}
    assert {(row["request_id"], row["arm"]) for row in rows_of(log)} == {
        ("canary", "canary"), ("stable", "stable"),
    }  # fmt: skip


async def test_calls_of_one_model_of_which_one_says_nothing(
    log: RecordLog, clock: ManualClock
) -> None:
    """They have other columns, and come in one delivery."""
    batch = [
        structured(kind, name, content)
        for name, calls in (("none", ({"instances": []}, RESPONSE)), ("good", (REQUEST, RESPONSE)))
        for kind, content in zip(("request", "response"), calls, strict=True)
    ]
    headers = {"content-type": "application/cloudevents-batch+json"}
    async with collecting(log, clock) as client:
        answer = await client.post("/v1/events", content=json.dumps(batch), headers=headers)
        assert answer.json() == {"waiting": 2, "undecodable": 1, "joined": 1}
    assert {row["request_id"] for row in rows_of(log)} == {"none", "good"}


async def test_a_duplicate_changes_nothing(client: httpx.AsyncClient, log: RecordLog) -> None:
    for kind, content in (("request", REQUEST), ("response", RESPONSE)):
        await send(client, kind, content)
        assert (await send(client, kind, content)).json() == {"duplicate": 1}
    assert (await send(client, "request", REQUEST)).json() == {"duplicate": 1}
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
    headers = {**headers_of("request"), **change}
    answer = await client.post("/v1/events", json=REQUEST, headers=headers)
    assert answer.status_code == 400
    assert re.search(message, answer.json()["error"])
    assert log.stats().rows == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", "the body is not JSON"),
        (b"[3]", "event 0: an event must be a JSON object"),
        (json.dumps([structured("request", "a", {}), {}]).encode(), "event 1: the attribute"),
        (
            json.dumps([structured("request", "a", {}, data_base64="")]).encode(),
            "event 0: an event has either",
        ),
        (
            json.dumps([structured("request", "a", None, data_base64="?")]).encode(),
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
    assert (await send(client, "request", REQUEST)).json() == {"waiting": 1}


async def test_orphans_are_kept_and_counted(
    log: RecordLog, clock: ManualClock, models: Path
) -> None:
    window = WindowLimits(seconds=10.0)
    async with collecting(log, clock, models=models, event_window=window) as client:
        await send(client, "request", REQUEST, "asked")
        await send(client, "response", RESPONSE, "answered")
        clock.advance(11.0)
        await send(client, "request", REQUEST, "new")
        rows = rows_of(log)
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
    assert {row["request_id"] for row in rows_of(log)} == {"asked", "answered", "new"}, (
        "what waits at the end is kept too"
    )


async def test_a_full_window_spills_the_oldest(
    log: RecordLog, clock: ManualClock, models: Path
) -> None:
    async with collecting(log, clock, models=models, event_window=WindowLimits(events=3)) as client:
        for number in range(5):
            await send(client, "request", REQUEST, f"r{number}")
        assert {row["request_id"] for row in rows_of(log)} == {"r0", "r1"}
        assert (await send(client, "response", RESPONSE, "r4")).json() == {"joined": 1}
        assert 'fate="spilled"} 2.0' in (await client.get("/metrics")).text


async def test_a_window_full_of_bytes_spills_too(
    log: RecordLog, clock: ManualClock, models: Path
) -> None:
    window = WindowLimits(bytes=3 * len(json.dumps(REQUEST)))
    async with collecting(log, clock, models=models, event_window=window) as client:
        for number in range(20):  # what has been joined takes no room any more
            await send(client, "request", REQUEST, f"j{number}")
            await send(client, "response", RESPONSE, f"j{number}")
        for number in range(5):
            await send(client, "request", REQUEST, f"r{number}")
        kept = {row["request_id"] for row in rows_of(log)}
        assert {name for name in kept if name[0] == "r"} == {"r0", "r1"}


async def test_calls_that_were_joined_are_known_for_a_while(
    log: RecordLog, clock: ManualClock, models: Path
) -> None:
    window = WindowLimits(seconds=10.0, events=3)
    async with collecting(log, clock, models=models, event_window=window) as client:

        async def call(name: str) -> list[dict[str, int]]:
            sent = (("request", REQUEST), ("response", RESPONSE))
            return [(await send(client, kind, body, name)).json() for kind, body in sent]

        new, known = [{"waiting": 1}, {"joined": 1}], [{"duplicate": 1}, {"duplicate": 1}]
        assert [await call(name) for name in "abc"] == [new] * 3
        assert [await call(name) for name in "abc"] == [known] * 3
        assert await call("d") == new
        assert await call("a") == new, "as many as may wait, the last of them"
        clock.advance(10.5)
        await send(client, "request", REQUEST, "later")
        assert await call("a") == new, "they are forgotten"


async def test_what_neither_the_log_nor_the_window_has_room_for_is_lost(
    log: RecordLog, clock: ManualClock, models: Path
) -> None:
    full = _Full(log)
    window = WindowLimits(events=1)
    async with collecting(full, clock, models=models, event_window=window) as client:
        for name in "ab":
            await send(client, "request", REQUEST, name)
        assert (
            'coalmine_collector_events_total{fate="lost"} 1.0'
            in (await client.get("/metrics")).text
        )
        full.full = False
    assert {row["request_id"] for row in rows_of(log)} == {"b"}


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
        await send(client, "request", request, str(number))
        answer = await send(client, "response", response, str(number))
        assert (answer.status_code, answer.json()) == (200, {"undecodable": 1})
    rows = rows_of(log)
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
            headers = headers_of(kind, f"n{number}")
            answer = await client.post("/v1/events", content=body, headers=headers)
            assert answer.status_code == 200, answer.text
    assert len({row["request_id"] for row in rows_of(log)}) == len(bodies)


async def test_ids_are_those_that_labels_are_given_by(
    client: httpx.AsyncClient, log: RecordLog
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    kept: list[tuple[dict[str, str], Any, str]] = [
        ({"metadata": json.dumps({"X-Request-Id": ["mine"]})}, REQUEST, "mine"),
        ({"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}, REQUEST, trace),
        ({"metadata": "{}"}, {**v2_request(), "id": "of-the-body"}, "of-the-body"),
        ({}, REQUEST, "3"),
        (
            {},
            {**v2_request(), "id": "of-the-body"},
            "4",
        ),  # as our server does: first what Ce-Id says
    ]
    made_up = "0e8c3dd4-8ad7-4b3a-9c55-3f1f6f2f8a11"
    kept += [
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, REQUEST, "5"),
        ({}, {**v2_request(), "id": 5}, made_up.replace("0", "1")),
    ]
    for number, (more, request, _) in enumerate(kept):
        expected = kept[number][2]
        name = made_up if expected == "of-the-body" else str(number)
        if len(expected) == len(made_up):
            name = expected
        await send(client, "request", request, name, **more)
        assert (await send(client, "response", RESPONSE, name)).json() == {"joined": 1}
    assert [row["request_id"] for row in rows_of(log)][::2] == [name for *_, name in kept]


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
async def test_a_time_that_no_calendar_has_is_the_senders_mistake(
    client: httpx.AsyncClient, log: RecordLog, time: str
) -> None:
    answer = await send(client, "request", REQUEST, time=time)
    assert (answer.status_code, log.stats().rows) == (400, 0)
    assert "'time'" in answer.json()["error"]


async def test_a_name_that_no_log_takes_loses_that_call_alone(
    client: httpx.AsyncClient, log: RecordLog
) -> None:
    nobody = {"inferenceservicename": "__HIVE_DEFAULT_PARTITION__"}
    nothing = json.dumps({"coalmine/arm": ""})
    for name, more in (("lost", nobody), ("good", {"annotations": nothing})):
        await send(client, "request", REQUEST, name, **more)
        answer = await send(client, "response", RESPONSE, name, **more)
        assert answer.json() == ({"lost": 1} if more is nobody else {"joined": 1})
    assert {(row["request_id"], row["arm"]) for row in rows_of(log)} == {("good", "stable")}


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
    async with collecting(full, clock, models=models) as client:
        await send(client, "request", REQUEST)
        answer = await send(client, "response", RESPONSE)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        full.full = False
        assert (await send(client, "response", RESPONSE)).json() == {"joined": 1}
    assert len(rows_of(log)) == 2


async def test_a_half_that_comes_while_the_other_cannot_be_stored_joins_it(
    log: RecordLog, clock: ManualClock, models: Path
) -> None:
    full = _Full(log)
    trying, came = threading.Event(), threading.Event()
    async with collecting(full, clock, models=models) as client:
        await send(client, "request", REQUEST, "late")
        clock.advance(61.0)
        full.tried = lambda: (trying.set(), came.wait(60))  # type: ignore[func-returns-value]
        other = asyncio.create_task(send(client, "request", REQUEST, "other"))
        assert await asyncio.to_thread(trying.wait, 60)
        full.tried = lambda: None
        # Its other half: nobody waits for it, as it seems, while the log is tried.
        assert (await send(client, "response", RESPONSE, "late")).json() == {"waiting": 1}
        came.set()
        assert (await other).json() == {"waiting": 1}
        full.full = False
        assert (await send(client, "response", RESPONSE, "other")).json() == {"joined": 1}
        assert (await send(client, "response", RESPONSE, "late")).json() == {"duplicate": 1}
    rows = rows_of(log)
    assert {(row["request_id"], row["status"]) for row in rows} == {("late", 200), ("other", 200)}
