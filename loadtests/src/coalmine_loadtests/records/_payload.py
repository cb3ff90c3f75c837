"""Batches as a model server's emitter sends them, made beforehand so that sending costs little."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa

from coalmine.modeldir import Column, ModelCard, Tensor
from coalmine.records import InferenceRecord, record_batch

__all__ = ["Payload", "tag_of"]

_CLASSES = ("normal", "fault")
_TAG = 12


class Payload:
    """The body of a batch of one-row requests, whose request ids can be made new in place."""

    def __init__(self, *, rows: int, features: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        ids = [str(uuid.UUID(bytes=random.bytes(16))) for _ in range(rows)]
        batch = record_batch(
            [_record(name, number, random, features) for number, name in enumerate(ids)],
            card=_card(features),
            model_version="3",
            arm="stable",
            pod="ev-battery-stable-6c9f7b",
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        self.rows = rows
        self.body = bytearray(sink.getvalue().to_pybytes())
        start = self.body.index("".join(ids).encode())
        whole = np.frombuffer(self.body, np.uint8)
        self._ids = whole[start : start + 36 * rows].reshape(rows, 36)

    def renumber(self, number: int) -> str:
        """Give all rows new ids, which begin with the returned tag."""
        tag = f"{number:0{_TAG}x}"
        self._ids[:, :_TAG] = np.frombuffer(tag.encode(), np.uint8)
        return tag


def tag_of(request_id: str) -> str:
    """The tag of the batch that a row belongs to."""
    return request_id[:_TAG]


def _card(features: int) -> ModelCard:
    columns = tuple(Column(name=f"f{number}") for number in range(features))
    label = Column(name="label", type="categorical", categories=_CLASSES)
    return ModelCard(
        name="ev-battery",
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, features), columns=columns),),
        outputs=(Tensor(name="label", datatype="INT64", shape=(-1,), columns=(label,)),),
    )


def _record(name: str, number: int, random: np.random.Generator, features: int) -> InferenceRecord:
    return InferenceRecord(
        request_id=name,
        time=1_700_000_000.0 + number * 1e-4,
        protocol="v2",
        latency_us=int(random.integers(300, 3000)),
        inputs={"x": random.normal(size=(1, features)).astype(np.float32)},
        outputs={"label": random.integers(0, 2, 1)},
        queue_us=int(random.integers(0, 300)),
        batch_rows=8,
    )
