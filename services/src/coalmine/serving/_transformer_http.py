"""A predictor over HTTP: V2, in binary tensors if it reads them, or V1."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
import numpy as np
import orjson

from coalmine.protocol import (
    Array,
    ProtocolError,
    Tensors,
    TensorSpec,
    datatype_of,
    from_raw,
    from_values,
    predictions,
    to_raw,
)
from coalmine.serving._errors import (
    DeadlineError,
    PredictorAnswerError,
    PredictorUnavailableError,
)
from coalmine.serving._transformer_options import PredictorOptions
from coalmine.serving._transformer_remote import (
    Answer,
    Described,
    batch_rows,
    checked_outputs,
    failure,
    seconds,
    specs_of,
)

__all__ = ["HttpPredictor"]

_LENGTH = "inference-header-content-length"
_JSON = {"content-type": "application/json"}
#: Who answered; an arm is a transformer and a predictor of one version.
_IDENTITY = ("x-coalmine-arm", "x-coalmine-version")
_CONNECT_SECONDS = 5.0
_MOST_CONNECTIONS = 1024
#: Shorter than any server's, so that a connection is not used just as it is closed over there.
_KEEP_ALIVE_SECONDS = 15.0


class HttpPredictor:
    """One model of a predictor, over a pool of connections that are kept open."""

    def __init__(self, options: PredictorOptions, *, name: str) -> None:
        self._options = options
        self._base = options.url
        self._name = quote(name, safe="")
        self._session: aiohttp.ClientSession | None = None

    async def describe(self) -> Described:
        """The model's V2 metadata; nothing of tensors if the predictor speaks V1 alone."""
        v1 = self._options.protocol == "v1"
        extensions = (await self._get("/v2", optional=True)).get("extensions", [])
        model = await self._get(f"/v2/models/{self._name}", optional=v1)
        if not model:  # is the model there at all?
            await self._get(f"/v1/models/{self._name}")
        versions = model.get("versions")
        return Described(
            self._specs(model.get("inputs")),
            self._specs(model.get("outputs")),
            str(versions[-1]) if isinstance(versions, list) and versions else None,
            isinstance(extensions, list) and "binary_tensor_data" in extensions,
        )

    async def infer(
        self, tensors: Tensors, described: Described, *, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """The model's outputs."""
        if self._options.protocol == "v1":
            body = orjson.dumps({"instances": predictions(tensors, tuple(tensors))})
            path, extra = f"/v1/models/{self._name}:predict", _JSON
        else:
            # Microseconds, as Triton has it, and we: nobody waits for what comes later.
            asked: dict[str, Any] = {"parameters": {"timeout": max(int(timeout * 1e6), 1)}}
            if (identifier := headers.get("x-request-id")) is not None:
                asked["id"] = identifier
            body, extra = _request(tensors, asked, binary=described.binary)
            path = f"/v2/models/{self._name}/infer"
        status, content, found = await self._send(
            "POST", path, body=body, headers={**headers, **extra}, timeout=timeout
        )
        if status != 200:
            later = found.get("retry-after")
            raise failure(status, _said(content), where=self._base, retry_after=later)
        try:
            if self._options.protocol == "v1":
                outputs = _v1_outputs(content, described)
            else:
                outputs = _v2_outputs(content, found.get(_LENGTH))
        except (ProtocolError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise PredictorAnswerError(
                f"the answer of the predictor at {self._base} cannot be read: {error}"
            ) from error
        rows = batch_rows(tensors)
        outputs = checked_outputs(outputs, described, rows=rows, where=self._base)
        return Answer(outputs, {name: found[name] for name in _IDENTITY if name in found})

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _specs(self, items: Any) -> tuple[TensorSpec, ...]:
        try:
            described = [(item["name"], item["datatype"], item["shape"]) for item in items or ()]
        except (KeyError, TypeError):
            raise PredictorAnswerError(f"the metadata of the predictor at {self._base}") from None
        return specs_of(described, where=self._base)

    async def _get(self, path: str, *, optional: bool = False) -> dict[str, Any]:
        status, content, _ = await self._send("GET", path, timeout=self._options.timeout)
        if optional and status in (404, 405, 501):
            return {}
        if status != 200:
            raise failure(status, _said(content), where=self._base)
        try:
            found = orjson.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise PredictorAnswerError(f"{self._base}{path} is not a JSON object")
        return found

    async def _send(
        self,
        method: str,
        path: str,
        *,
        timeout: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes, Mapping[str, str]]:
        if self._session is None:
            self._session = self._open()
        try:
            async with self._session.request(
                method,
                self._base + path,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=max(timeout, 1e-3), sock_connect=_CONNECT_SECONDS
                ),
            ) as answer:
                return answer.status, await answer.read(), answer.headers
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise PredictorUnavailableError(
                f"the predictor at {self._base} cannot be reached: {_why(error)}"
            ) from error
        except TimeoutError as error:
            raise DeadlineError(
                f"the predictor did not answer within {seconds(timeout)}"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise PredictorAnswerError(
                f"the predictor at {self._base} ended the connection without an answer"
            ) from error

    def _open(self) -> aiohttp.ClientSession:
        context: ssl.SSLContext | bool = True
        if self._options.ssl:
            context = ssl.create_default_context(cafile=self._options.authorities)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=_MOST_CONNECTIONS, keepalive_timeout=_KEEP_ALIVE_SECONDS, ssl=context
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("user-agent", "accept"),
        )


def _why(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", None)
        return f"its certificate is not trusted: {reason or error.certificate_error}"
    if isinstance(error, aiohttp.ClientSSLError):
        return "it does not speak TLS"
    number: int | None = getattr(error, "errno", None)
    if number is not None and number > 0:
        return os.strerror(number)  # asyncio's own text is its call's arguments
    return getattr(error, "strerror", None) or "no connection in time"


def _request(
    tensors: Tensors, content: dict[str, Any], *, binary: bool
) -> tuple[bytes, dict[str, str]]:
    inputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, array in tensors.items():
        item: dict[str, Any] = {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatype_of(array),
        }
        if binary:
            blobs.append(to_raw(array))
            item["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            item["data"] = _json_values(array)
        inputs.append(item)
    content["inputs"] = inputs
    if binary:
        content["parameters"]["binary_data_output"] = True
    head = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return head, _JSON
    extra = {"content-type": "application/octet-stream", _LENGTH: str(len(head))}
    return b"".join((head, *blobs)), extra


def _json_values(array: Array) -> Any:
    if array.dtype.kind in "OSU":
        return [v.decode() if isinstance(v, bytes) else str(v) for v in array.ravel().tolist()]
    if array.dtype == np.float16:  # which orjson does not write
        return array.ravel().tolist()
    return np.ascontiguousarray(array).ravel()


def _v2_outputs(content: bytes, length: str | None) -> Tensors:
    view = memoryview(content)
    split = len(view) if length is None else int(length)
    answer = orjson.loads(view[:split])
    rest = view[split:]
    outputs: Tensors = {}
    for item in answer["outputs"]:
        spec = TensorSpec(item["name"], item["datatype"], tuple(item["shape"]))
        size = (item.get("parameters") or {}).get("binary_data_size")
        if size is None:
            outputs[spec.name] = from_values(item["data"], spec, item["shape"])
        else:
            outputs[spec.name] = from_raw(rest[:size], spec, item["shape"])
            rest = rest[size:]
    return outputs


def _v1_outputs(content: bytes, described: Described) -> Tensors:
    rows = orjson.loads(content)["predictions"]
    specs = described.outputs
    if len(specs) == 1 and not (rows and isinstance(rows[0], dict)):
        return {specs[0].name: from_values(rows, specs[0])}
    return {spec.name: from_values([row[spec.name] for row in rows], spec) for spec in specs}


def _said(content: bytes) -> str:
    """The predictor's own words for an error, as the protocols and FastAPI put them."""
    try:
        found = orjson.loads(content)
    except ValueError:
        return ""
    said = found.get("error") or found.get("detail") if isinstance(found, dict) else None
    return said if isinstance(said, str) else ""
