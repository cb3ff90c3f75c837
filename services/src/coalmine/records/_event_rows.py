"""From a logged call to the rows that our own server would have recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from coalmine.modeldir import Tensor
from coalmine.protocol import (
    Array,
    InferenceCall,
    ProtocolError,
    Signature,
    Tensors,
    TensorSpec,
    call_from_instances,
    decode_v2,
)
from coalmine.records._arrays import number_array, text_array
from coalmine.records._cloudevents import Event
from coalmine.records._errors import MalformedEventError, SchemaError
from coalmine.records._event_payload import Payload, read_payload
from coalmine.records._event_window import Call
from coalmine.records._schema import BASE_FIELDS, record_schema
from coalmine.records._signatures import Deployed, Signatures

__all__ = ["EventFate", "EventRows", "rows_of"]

EventFate = Literal["joined", "orphan_request", "orphan_response", "undecodable", "lost"]

#: Status of a row that is not a whole call: neither an answer nor an error of the model's.
_NO_STATUS = 0
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
#: As KServe's agent makes an id, where the client gave none.
_MADE_UP = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class EventRows(NamedTuple):
    """The rows of a call."""

    batch: pa.RecordBatch
    fate: EventFate


def rows_of(call: Call, signatures: Signatures) -> EventRows:
    """One row per instance. What cannot be decoded has nulls, status 0 and says why in `error`."""
    request, response = read_payload(call.request), read_payload(call.response)
    wrong = [text for text in (request.wrong, response.wrong) if text]
    inputs: Tensors = {}
    outputs: Tensors = {}
    rows = 1
    deployed, card, schema = None, None, pa.schema(BASE_FIELDS)
    try:
        deployed = signatures.of(call.event, request.content, response.content)
        schema = record_schema(deployed.card)
        card = deployed.card
    except (MalformedEventError, SchemaError) as error:
        wrong.append(str(error))
    if card is not None:
        asked = _side("request", request, card.inputs, wrong)
        answered = _side("response", response, card.outputs, wrong)
        if asked and answered and asked.rows != answered.rows:
            wrong.append(f"{asked.rows} instances were asked, {answered.rows} answered")
            asked = answered = None
        inputs = asked.tensors if asked else {}
        outputs = answered.tensors if answered else {}
        rows = max(each.rows for each in (asked, answered) if each) if asked or answered else 1
    fate, status, error_text = _fate(call, wrong)
    base = _base(
        call, request=request.content, response=response.content, deployed=deployed, rows=rows
    )
    base |= {"status": status, "error": error_text}
    columns = {
        name: number_array(np.arange(rows, dtype=np.int32))
        if name == "row"
        else pa.array([value] * rows, schema.field(name).type)
        for name, value in {**base, "row": 0}.items()
    }
    if card is not None:
        columns |= _columns(card.inputs, inputs, rows, schema)
        columns |= _columns(card.outputs, outputs, rows, schema)
    batch = pa.record_batch([columns[name] for name in schema.names], schema=schema)
    return EventRows(batch, fate)


def _side(
    side: str, payload: Payload, tensors: tuple[Tensor, ...], wrong: list[str]
) -> InferenceCall | None:
    """The tensors of a side; None if it is not there, or does not fit, which `wrong` then says."""
    if not payload.content:
        return None
    try:
        call = _call(payload, tensors, response=side == "response")
    except ProtocolError as error:
        wrong.append(f"{side}: {error}")
        return None
    return call if call.rows else None


def _call(payload: Payload, tensors: tuple[Tensor, ...], *, response: bool) -> InferenceCall:
    content = payload.content
    given = content.get("outputs" if response else "inputs")
    if isinstance(given, list) and given and isinstance(given[0], dict) and "shape" in given[0]:
        present = [item.get("name") for item in given if isinstance(item, dict)]
        kept = [tensor for tensor in tensors if tensor.name in present or not response]
        head = orjson.dumps({"inputs": given})
        return decode_v2(head + payload.tail, _signature(kept), json_length=len(head))
    if not response:
        return call_from_instances(content, _signature(tensors))
    if isinstance(given, dict):  # V1 in columns
        kept = [tensor for tensor in tensors if tensor.name in given]
        return call_from_instances({"inputs": given}, _signature(kept))
    predictions = content.get("predictions")
    if not isinstance(predictions, list):
        raise ProtocolError("neither `predictions` nor `outputs` are in it")
    first = predictions[0] if predictions else None
    # Servers of one answer per row leave out what else a model returns, and the names.
    kept = list(tensors[:1])
    if isinstance(first, dict) and first.keys() != {"b64"}:
        kept = [tensor for tensor in tensors if tensor.name in first]
    return call_from_instances({"instances": predictions}, _signature(kept))


def _signature(tensors: Any) -> Signature:
    specs = tuple(TensorSpec(each.name, each.datatype, each.shape) for each in tensors)
    return Signature(specs, (), "allow")


def _fate(call: Call, wrong: list[str]) -> tuple[EventFate, int, str | None]:
    if wrong:
        return "undecodable", _NO_STATUS, "undecodable: " + "; ".join(wrong)[:1000]
    if call.response is None:
        return "orphan_request", _NO_STATUS, "orphan: no response was logged in time"
    if call.request is None:
        return "orphan_response", _NO_STATUS, "orphan: no request was logged in time"
    return "joined", 200, None


def _base(
    call: Call,
    *,
    request: Mapping[str, Any],
    response: Mapping[str, Any],
    deployed: Deployed | None,
    rows: int,
) -> dict[str, Any]:
    event = call.event
    ended = event.time if call.response is None else call.response.time
    given = request.get("inputs")
    is_v1 = "instances" in request or (isinstance(given, dict))
    if not request:
        is_v1 = "predictions" in response or isinstance(response.get("outputs"), dict)
    return {
        "request_id": _request_id(event, request),
        "time": round(event.time * 1_000_000),
        "model_name": event.service or (deployed.card.name if deployed else "unknown"),
        "model_version": deployed.version if deployed else "unknown",
        "arm": deployed.arm if deployed else "stable",
        "pod": event.source,
        "protocol": "v1" if is_v1 else "v2",
        "latency_us": max(0, round((ended - event.time) * 1_000_000)),
        "queue_us": 0,
        "batch_rows": rows,
        "caller_block": None,
    }


def _request_id(event: Event, request: Mapping[str, Any]) -> str:
    """As our server chooses it: a Ce-Id that the logger made up was not in the request."""
    if found := event.headers.get("x-request-id"):
        return found
    match = _TRACEPARENT.fullmatch(event.traceparent or event.headers.get("traceparent", ""))
    if match is not None:
        return match[1]
    given = request.get("id")
    is_made_up = _MADE_UP.fullmatch(event.id) is not None
    return given if is_made_up and isinstance(given, str) and given else event.id


def _columns(
    tensors: tuple[Tensor, ...], found: Mapping[str, Array], rows: int, schema: pa.Schema
) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    for tensor in tensors:
        array = found.get(tensor.name)
        for index, column in enumerate(tensor.columns):
            if array is None:
                columns[column.name] = pa.nulls(rows, schema.field(column.name).type)
                continue
            values = array.reshape(rows, -1)[:, index]
            if array.dtype == object:
                columns[column.name] = text_array([_text(value) for value in values.tolist()])
            else:
                columns[column.name] = number_array(values)
    return columns


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
