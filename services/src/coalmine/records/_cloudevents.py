"""CloudEvents 1.0 over HTTP, as KServe's logger sends them: binary, structured, and batched.

| content type | attributes | payload |
|---|---|---|
| `application/cloudevents+json` | keys of the object | `data` or `data_base64` |
| `application/cloudevents-batch+json` | the same, a list of them | |
| any other | `Ce-*` headers | the body |
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from coalmine.records._errors import MalformedEventError

__all__ = ["Event", "read_events"]

_TYPES: dict[str, Literal["request", "response"]] = {
    "org.kubeflow.serving.inference.request": "request",
    "org.kubeflow.serving.inference.response": "response",
}
_STRUCTURED = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch+json"
_MAX_TEXT = 1_024


@dataclass(frozen=True, slots=True)
class Event:
    """One half of an inference call, as the logger saw it."""

    kind: Literal["request", "response"]
    id: str
    """Ce-Id, which the two halves share."""

    source: str
    service: str
    """Name of the InferenceService; empty if it was not said."""

    namespace: str
    component: str
    """predictor, transformer or explainer; empty if it was not said."""

    time: float
    """When it happened, seconds since the epoch."""

    payload: bytes
    traceparent: str
    headers: Mapping[str, str]
    """Of the request, those that the logger was told to keep; names in lower case."""

    annotations: Mapping[str, str]

    @property
    def call(self) -> tuple[str, str, str, str]:
        """What the two halves of a call have in common."""
        return self.namespace, self.service, self.component, self.id


def read_events(body: bytes, headers: Mapping[str, str], *, now: float) -> list[Event]:
    """The events of one delivery; `headers` by lower-case name.

    MalformedEventError names the attribute that is wrong. An event without a time has `now`.
    """
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in (_STRUCTURED, _BATCH):
        attributes: dict[str, Any] = {
            name[3:]: value for name, value in headers.items() if name.startswith("ce-")
        }
        if "traceparent" in headers:
            attributes.setdefault("traceparent", headers["traceparent"])
        return [_event(attributes, body, now=now)]
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedEventError(f"the body is not JSON: {error}") from None
    if content_type == _STRUCTURED:
        return [_structured(content, now=now)]
    if not isinstance(content, list):
        raise MalformedEventError("a batch of events must be a list")
    events = []
    for number, item in enumerate(content):
        try:
            events.append(_structured(item, now=now))
        except MalformedEventError as error:
            raise MalformedEventError(f"event {number}: {error}") from None
    return events


def _structured(content: Any, *, now: float) -> Event:
    if not isinstance(content, dict):
        raise MalformedEventError("an event must be a JSON object")
    attributes = dict(content)
    data, encoded = attributes.pop("data", None), attributes.pop("data_base64", None)
    if data is not None and encoded is not None:
        raise MalformedEventError("an event has either `data` or `data_base64`")
    if encoded is not None:
        try:
            payload = base64.b64decode(encoded, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise MalformedEventError("`data_base64` is not base64") from None
    else:
        payload = data.encode() if isinstance(data, str) else orjson.dumps(data)
    return _event(attributes, payload, now=now)


def _event(attributes: Mapping[str, Any], payload: bytes, *, now: float) -> Event:
    version = _text(attributes, "specversion", required=True)
    if version != "1.0":
        raise MalformedEventError(f"specversion {version!r:.40} is not 1.0")
    kind = _TYPES.get(found := _text(attributes, "type", required=True))
    if kind is None:
        allowed = " or ".join(_TYPES)
        raise MalformedEventError(f"type {found!r:.80} is not one of KServe's logger: {allowed}")
    return Event(
        kind=kind,
        id=_text(attributes, "id", required=True),
        source=_text(attributes, "source"),
        service=_text(attributes, "inferenceservicename"),
        namespace=_text(attributes, "namespace"),
        component=_text(attributes, "component"),
        time=_time(_text(attributes, "time"), now=now),
        payload=payload,
        traceparent=_text(attributes, "traceparent"),
        headers={name.lower(): value for name, value in _object(attributes, "metadata").items()},
        annotations=_object(attributes, "annotations"),
    )


def _text(attributes: Mapping[str, Any], name: str, *, required: bool = False) -> str:
    value = attributes.get(name)
    if value is None or value == "":
        if required:
            raise MalformedEventError(f"the attribute {name!r} (Ce-{name.capitalize()}) is missing")
        return ""
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise MalformedEventError(
            f"the attribute {name!r} must be a text of at most {_MAX_TEXT} characters"
        )
    return value


def _time(text: str, *, now: float) -> float:
    if not text:
        return now
    try:
        # Go writes nanoseconds, of which Python reads the first six digits only since 3.11.
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise MalformedEventError(f"the attribute 'time' is not RFC 3339: {text!r:.60}") from None
    if moment.tzinfo is None:
        raise MalformedEventError(f"the attribute 'time' has no time zone: {text!r:.60}")
    try:
        return moment.astimezone(UTC).timestamp()
    except OverflowError:
        raise MalformedEventError(f"the attribute 'time' has no such year: {text!r:.60}") from None


def _object(attributes: Mapping[str, Any], name: str) -> dict[str, str]:
    """Texts by name, of a JSON object whose values are texts or, as Go's headers are, lists."""
    value = attributes.get(name)
    if isinstance(value, str) and value:
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise MalformedEventError(f"the attribute {name!r} is not JSON") from None
    if not value:
        return {}
    if not isinstance(value, dict):
        raise MalformedEventError(f"the attribute {name!r} must be a JSON object")
    return {
        key: str(item[0] if isinstance(item, list) else item)
        for key, item in value.items()
        if item not in (None, [])
    }
