"""What NVIDIA's clients ask a server beside the inference protocol: a model's configuration.

And what we do not have, by name: a client hears 501 and what to do instead, not 404.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from coalmine.serving._asgi import Send, respond
from coalmine.serving._dataplane import Dataplane
from coalmine.serving._errors import ServingError
from coalmine.serving._http import send_error
from coalmine.serving._providers import PROVIDERS
from coalmine.serving._servable import Servable
from coalmine.serving._statistics import model_statistics

__all__ = ["Triton", "config_message", "model_config", "served_by"]

#: Datatype of the protocol to its name and number in Triton's enumeration `DataType`.
_DATA_TYPES = {
    "BOOL": ("TYPE_BOOL", 1),
    "UINT8": ("TYPE_UINT8", 2),
    "UINT16": ("TYPE_UINT16", 3),
    "UINT32": ("TYPE_UINT32", 4),
    "UINT64": ("TYPE_UINT64", 5),
    "INT8": ("TYPE_INT8", 6),
    "INT16": ("TYPE_INT16", 7),
    "INT32": ("TYPE_INT32", 8),
    "INT64": ("TYPE_INT64", 9),
    "FP16": ("TYPE_FP16", 10),
    "FP32": ("TYPE_FP32", 11),
    "FP64": ("TYPE_FP64", 12),
    "BYTES": ("TYPE_STRING", 13),
}
_KINDS = {"KIND_GPU": 1, "KIND_CPU": 2}
_GPUS = {PROVIDERS[name] for name in PROVIDERS if name != "cpu"}
_JSON = (b"content-type", b"application/json")
_CONFIG = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?/config")
_MISSING = (
    (
        re.compile(r"/v2/(models/[^/]+(/versions/[^/]+)?/)?trace/setting"),
        "trace settings are not supported: the server sends spans to OpenTelemetry when told to",
    ),
    (re.compile(r"/v2/logging"), "log settings are not supported"),
    (re.compile(r"/v1/models/[^/]+:explain"), "explain is not supported: a model has no explainer"),
    (
        re.compile(r"/v2/(system|cuda)sharedmemory/.*"),
        "shared memory is not supported: send tensors in the request",
    ),
    (
        re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/generate(_stream)?"),
        "generation is not supported: this server answers tensors with tensors",
    ),
)


_STATISTICS = re.compile(r"/v2/models/(?:(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?/)?stats")


class Triton:
    """Triton's paths of HTTP that are not inference."""

    def __init__(self, plane: Dataplane) -> None:
        self._plane = plane

    async def __call__(self, method: str, path: str, send: Send) -> bool:
        """Answer the request if it is one of Triton's; whether it was."""
        for pattern, reason in _MISSING:
            if pattern.fullmatch(path):
                await respond(send, 501, [_JSON], orjson.dumps({"error": reason}))
                return True
        config, statistics = _CONFIG.fullmatch(path), _STATISTICS.fullmatch(path)
        route = config or statistics
        if route is None:
            return False
        if method != "GET":
            refusal = {"error": f"{path:.200} is asked by GET, not {method:.40}"}
            await respond(send, 405, [_JSON, (b"allow", b"GET")], orjson.dumps(refusal))
            return True
        try:
            served = served_by(self._plane, route["name"] or "", route["version"])
        except ServingError as error:
            await send_error(send, error, self._plane.identity(None))
            return True
        if config is not None:
            content = model_config(served[0])
        else:
            content = {"model_stats": [model_statistics(servable) for servable in served]}
        await respond(send, 200, [_JSON], orjson.dumps(content))
        return True


def served_by(plane: Dataplane, name: str, version: str | None) -> list[Servable]:
    """The servable of this name, or all if there is no name; errors as of `Dataplane.serve`."""
    return [plane.serve(name, version)] if name else list(plane.repository.serving())


def model_config(servable: Servable) -> dict[str, Any]:
    """A model's configuration, as Triton writes it in JSON.

    A model that takes batches has them in `max_batch_size`, and not in `dims`.
    """
    batch_rows = servable.batch_rows
    first = 1 if batch_rows else 0
    inputs, outputs = (
        [
            {
                "name": spec.name,
                "data_type": _DATA_TYPES[spec.datatype][0],
                "dims": list(spec.shape[first:]),
            }
            for spec in specs
        ]
        for specs in (servable.signature.inputs, servable.signature.outputs)
    )
    on_gpu = not _GPUS.isdisjoint(servable.providers[:1])
    config: dict[str, Any] = {
        "name": servable.name,
        "platform": servable.platform,
        "backend": servable.platform.removesuffix("_onnx"),
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": batch_rows,
        "input": inputs,
        "output": outputs,
        "instance_group": [
            {"name": servable.name, "kind": "KIND_GPU" if on_gpu else "KIND_CPU", "count": 1}
        ],
    }
    if batch_rows:
        # What waits is taken at once: there is neither a delay nor a size to prefer.
        config["dynamic_batching"] = {"max_queue_delay_microseconds": 0}
    return config


def config_message(servable: Servable) -> dict[str, Any]:
    """The same as the fields of the message ModelConfig, where enumerations are numbers."""
    config = model_config(servable)
    numbers = dict(_DATA_TYPES.values())
    for tensor in (*config["input"], *config["output"]):
        tensor["data_type"] = numbers[tensor["data_type"]]
    for group in config["instance_group"]:
        group["kind"] = _KINDS[group["kind"]]
    return config
