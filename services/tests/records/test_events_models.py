"""Events of KServe's logger and the models they are of: known, learned, or strange."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coalmine.clock import ManualClock
from coalmine.modeldir import ModelCard, write_card
from coalmine.records import RecordLog
from coalmine.records._cloudevents import read_events
from coalmine.records._signatures import Signatures

from .calls import REQUEST, RESPONSE, collecting, headers_of, rows_of, send, structured, v2_request


async def test_without_a_model_directory_the_columns_are_learned(
    log: RecordLog, clock: ManualClock
) -> None:
    outputs = [{"name": "y", "datatype": "INT64", "shape": [2], "data": [1, 2]}]
    response = {"model_name": "m", "model_version": "7", "outputs": outputs}
    async with collecting(log, clock) as client:
        await send(client, "request", v2_request())
        assert (await send(client, "response", response)).json() == {"joined": 1}
        await send(client, "request", {"instances": [{"mode": "eco", "soc": 0.5}]}, "b")
        answer = await send(client, "response", {"predictions": [0.25]}, "b")
        assert answer.json() == {"joined": 1}
        await send(client, "request", {"instances": [[1, 2]]}, "c", inferenceservicename="new")
    first, _, third, orphan = rows_of(log)
    assert (first["model_version"], first["features_23"], first["y"]) == ("7", 0.5, 1)
    assert (third["mode"], third["soc"], third["output"]) == ("eco", 0.5, 0.25)
    assert "no whole call of it was seen yet" in orphan["error"]


async def test_a_shape_that_claims_to_be_wide_is_not_learned_from(
    log: RecordLog, clock: ManualClock
) -> None:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 10**17], "data": [1]}]
    async with collecting(log, clock) as client:
        await send(client, "request", {"inputs": inputs}, "a")
        answer = await send(client, "response", {"predictions": [1]}, "a")
        assert (answer.status_code, answer.json()) == (200, {"undecodable": 1})
    (row,) = rows_of(log)
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
        structured(kind, name, content, inferenceservicename=service)
        for name, service, calls in (
            ("strange", "ev-battery", (request_, response)),
            ("good", "another", (REQUEST, RESPONSE)),
        )
        for kind, content in zip(("request", "response"), calls, strict=True)
    ]
    headers = {"content-type": "application/cloudevents-batch+json"}
    async with collecting(log, clock, models=None if learned else models) as client:
        answer = await client.post("/v1/events", content=json.dumps(together), headers=headers)
        assert answer.json() == {"waiting": 2, "undecodable": 1, "joined": 1}
        await send(client, "request", request_, "strange orphan")
        await send(client, "request", REQUEST, "orphan")
        clock.advance(61.0)
        assert (await send(client, "request", REQUEST, "next")).json() == {"waiting": 1}
        kept = {row["request_id"] for row in rows_of(log)}
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
    async with collecting(log, clock, models=models) as client:
        await send(client, "request", REQUEST, annotations=version)
        answer = await send(client, "response", RESPONSE, annotations=version)
        assert (answer.status_code, answer.json()) == (200, {"undecodable": 1})
    (row,) = rows_of(log)
    assert row["model_version"] == "11"
    assert "'status'" in row["error"]


async def test_a_model_directory_may_come_later(
    log: RecordLog, clock: ManualClock, tmp_path: Path, card: ModelCard
) -> None:
    (tmp_path / "models").mkdir()
    async with collecting(log, clock, models=tmp_path / "models") as client:
        (tmp_path / "models" / "4").mkdir()
        write_card(tmp_path / "models" / "4", card)
        await send(client, "request", REQUEST)
        assert (await send(client, "response", RESPONSE)).json() == {"joined": 1}
    assert {row["model_version"] for row in rows_of(log)} == {"4"}, "the only one there is"


def test_only_so_many_models_are_learned() -> None:
    signatures = Signatures(None)
    for number in range(1100):
        name = f"m{number}"
        (event,) = read_events(b"", headers_of("request", inferenceservicename=name), now=0.0)
        deployed = signatures.of(event, {"instances": [[1, 2]]}, {"predictions": [1]})
        assert deployed.card.name == name
    assert len(signatures._learned) <= 1024
