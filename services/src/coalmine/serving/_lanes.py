"""Lanes to a GPU: buffers that are allocated once, each used by one batch at a time.

A batch's rows are copied into a lane's page-locked input buffers, padded to the next of a few batch
sizes (the buckets), run, and copied out of its output buffers. So memory is allocated and
convolutions are tuned for the buckets only, before the server is ready; with two lanes, one batch
is copied while another is computed.

Padding repeats the batch's last row, which the network can take since it was in the batch, and is
cut off again. Answers are copies: no later batch writes into them.

With CUDA graphs a bucket's kernels are recorded once and replayed with one launch. A graph holds
the addresses of its tensors, and ONNX Runtime keeps graphs per thread: each such lane has its own
session, its own thread, and tensors that live on the device.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from coalmine.protocol import Array, Signature, Tensors
from coalmine.serving._pinned import host_array

__all__ = ["GraphLane", "HostLane", "Lanes", "Plan", "plan_for"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The batch sizes a network is run with, and the device its tensors go to."""

    signature: Signature
    buckets: tuple[int, ...]
    """In ascending order; (0,) for a network whose first dimensions are fixed as well."""

    device: int | None
    """Number of the GPU; None: the CPU, where lanes give the same answers."""

    @property
    def batched(self) -> bool:
        """Whether rows may be added and cut off."""
        return self.buckets != (0,)

    def bucket(self, rows: int) -> int:
        """The smallest bucket that takes `rows` rows, at most the largest."""
        return next((size for size in self.buckets if size >= rows), self.buckets[-1])


def plan_for(signature: Signature, *, max_rows: int, device: int | None) -> Plan | None:
    """The plan for a network; None if a size other than the batch's is free, or for text."""
    specs = (*signature.inputs, *signature.outputs)
    if not signature.inputs or any(spec.datatype == "BYTES" for spec in specs):
        return None
    if all(spec.shape[:1] == (-1,) and -1 not in spec.shape[1:] for spec in specs):
        powers = [1]
        while powers[-1] * 2 < max_rows:
            powers.append(powers[-1] * 2)
        return Plan(signature, tuple(sorted({*powers, max_rows})), device)
    if all(-1 not in spec.shape for spec in specs):
        return Plan(signature, (0,), device)
    return None


class Lane(Protocol):
    """Runs one batch at a time."""

    def run(self, tensors: Tensors) -> Tensors:
        """The outputs for at most as many rows as the largest bucket takes."""
        ...

    def close(self) -> None:
        """Let go of what the lane holds."""
        ...


class Lanes:
    """A network's lanes; `run` may be called from several threads, and waits for a free lane."""

    def __init__(self, lanes: Sequence[Lane], plan: Plan) -> None:
        self._plan = plan
        self._all = tuple(lanes)
        self._free: SimpleQueue[Lane] = SimpleQueue()
        for lane in self._all:
            self._free.put(lane)

    def run(self, tensors: Tensors) -> Tensors:
        """The outputs, owned by the caller; more rows than the largest bucket go in pieces."""
        lane = self._free.get()
        try:
            if not self._plan.batched:
                return lane.run(tensors)
            rows, size = _rows(tensors), self._plan.buckets[-1]
            parts = [
                lane.run({name: array[start : start + size] for name, array in tensors.items()})
                for start in range(0, rows, size)
            ]
        finally:
            self._free.put(lane)
        if len(parts) == 1:
            return parts[0]
        return {
            spec.name: np.concatenate(
                [np.empty(_sized(spec.shape, 0), spec.dtype), *(part[spec.name] for part in parts)]
            )
            for spec in self._plan.signature.outputs
        }

    def close(self) -> None:
        """Close every lane; none may be in use."""
        for lane in self._all:
            lane.close()


class _Buffers:
    """Host arrays for the largest bucket; smaller buckets are views of their first rows."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        rows = plan.buckets[-1]
        self.inputs = {
            spec.name: host_array(_sized(spec.shape, rows), spec.dtype, device=plan.device)
            for spec in plan.signature.inputs
        }
        self.outputs = {
            spec.name: host_array(_sized(spec.shape, rows), spec.dtype, device=plan.device)
            for spec in plan.signature.outputs
        }

    def fill(self, tensors: Tensors) -> tuple[int, int]:
        """Copy a batch in and pad it; its rows, and its bucket."""
        if not self._plan.batched:
            for name, buffer in self.inputs.items():
                np.copyto(buffer, tensors[name])
            return 0, 0
        rows = _rows(tensors)
        bucket = self._plan.bucket(rows)
        for name, buffer in self.inputs.items():
            buffer[:rows] = tensors[name]
            buffer[rows:bucket] = tensors[name][-1]
        return rows, bucket

    def view(self, array: Array, bucket: int) -> Array:
        """The part of a buffer that a bucket uses."""
        return array[:bucket] if self._plan.batched else array

    def answer(self, array: Array, rows: int) -> Array:
        """The batch's own rows of an output, as a copy."""
        return np.array(array[:rows] if self._plan.batched else array)


class HostLane:
    """Reads and writes page-locked host memory; ONNX Runtime copies to the device and back."""

    def __init__(self, session: Any, plan: Plan) -> None:
        self._session = session
        self._buffers = _Buffers(plan)
        self._bindings: dict[int, Any] = {}
        for bucket in _largest_first(plan):
            binding = session.io_binding()
            for name, array in self._buffers.outputs.items():
                value = ort.OrtValue.ortvalue_from_numpy(self._buffers.view(array, bucket), "cpu")
                binding.bind_ortvalue_output(name, value)
            self._bindings[bucket] = binding
            self._run(bucket)

    def run(self, tensors: Tensors) -> Tensors:
        """One batch, on the caller's thread."""
        rows, bucket = self._buffers.fill(tensors)
        self._run(bucket)
        return {
            name: self._buffers.answer(array, rows) for name, array in self._buffers.outputs.items()
        }

    def close(self) -> None:
        """Let go of the buffers."""
        self._bindings.clear()

    def _run(self, bucket: int) -> None:
        binding = self._bindings[bucket]
        for name, array in self._buffers.inputs.items():
            # Binding is what copies to the device: bound once, the first batch would be run again.
            binding.bind_cpu_input(name, self._buffers.view(array, bucket))
        # A run waits for its own stream: what was copied in is used up then, and what is copied
        # out is there. A binding's `synchronize_...` would wait for the other lane's batch too.
        self._session.run_with_iobinding(binding)


class GraphLane:
    """Replays a recorded CUDA graph for each bucket, on a thread and a session of its own."""

    def __init__(self, session: Any, plan: Plan) -> None:
        self.session = session
        self._plan = plan
        self._buffers = _Buffers(plan)
        self._recorded: dict[int, _Recorded] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cuda-graph")
        self._thread.submit(self._record).result()

    def run(self, tensors: Tensors) -> Tensors:
        """One batch, on the lane's thread."""
        return self._thread.submit(self._replay, tensors).result()

    def close(self) -> None:
        """End the thread and let go of the device's memory."""
        self._thread.submit(self._recorded.clear).result()
        self._thread.shutdown()

    def _record(self) -> None:
        for number, bucket in enumerate(_largest_first(self._plan), start=1):
            recorded = _Recorded(self.session, self._plan, bucket, number)
            with _GATE.alone():
                recorded.run(self.session)
            self._recorded[bucket] = recorded

    def _replay(self, tensors: Tensors) -> Tensors:
        rows, bucket = self._buffers.fill(tensors)
        recorded = self._recorded[bucket]
        with _GATE.together():
            for name, value in recorded.inputs.items():
                value.update_inplace(self._buffers.view(self._buffers.inputs[name], bucket))
            recorded.run(self.session)
            return {
                name: self._buffers.answer(value.numpy(), rows)
                for name, value in recorded.outputs.items()
            }


class _Recorded:
    """A bucket's tensors on the device. ONNX Runtime records a graph at the first run."""

    def __init__(self, session: Any, plan: Plan, bucket: int, number: int) -> None:
        kind, device = ("cpu", 0) if plan.device is None else ("cuda", plan.device)

        def tensor(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
            shape = _sized(shape, bucket)
            value = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, kind, device)
            value.update_inplace(np.zeros(shape, dtype))
            return value

        self.inputs = {spec.name: tensor(spec.shape, spec.dtype) for spec in plan.signature.inputs}
        self.outputs = {
            spec.name: tensor(spec.shape, spec.dtype) for spec in plan.signature.outputs
        }
        self._binding = session.io_binding()
        for name, value in self.inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self.outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(number))

    def run(self, session: Any) -> None:
        """Record, or replay."""
        session.run_with_iobinding(self._binding, self._options)


class _Gate:
    """While a graph is recorded, no other thread may use the device: CUDA would void the record.

    A model that is loaded beside one that serves thus holds it up for the recording alone.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._replaying = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Replay, beside others."""
        with self._changed:
            self._replaying += 1
        try:
            yield
        finally:
            with self._changed:
                self._replaying -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Record, when every replay has ended; no other begins until this is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._replaying)
            yield


_GATE = _Gate()


def _largest_first(plan: Plan) -> tuple[int, ...]:
    """What the largest bucket has allocated the others use again; the other way round, none can."""
    return plan.buckets[::-1]


def _rows(tensors: Tensors) -> int:
    return len(next(iter(tensors.values())))


def _sized(shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    return tuple(rows if size == -1 else size for size in shape)
