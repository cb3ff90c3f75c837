"""ModelInferRequests that differ in their raw contents alone, which is what one client's do.

All but the raw contents of such a request is the same bytes each time, and so means the same. What
it meant is remembered; then a message is a comparison and a few views, not a parse.
"""

from __future__ import annotations

from typing import NamedTuple

from coalmine.protocol._signature import InferenceCall, Signature
from coalmine.protocol._tensors import TensorSpec
from coalmine.protocol._values import from_raw

__all__ = ["InferMemo", "Known"]

_RAW_TAG = 7 << 3 | 2
_REMEMBERED, _MOST = 8, 1024
#: Bytes of a message from which on it matters where its tensors lie.
_LARGE = 32 * 1024


class Known(NamedTuple):
    """What the part of a request before its raw contents means."""

    before: bytes
    model_name: str
    model_version: str
    signature: Signature
    inputs: tuple[tuple[TensorSpec, list[int]], ...]
    call: InferenceCall

    def decode(self, raw: list[bytes | memoryview]) -> InferenceCall:
        """The call with other raw contents; errors as of `decode_infer`."""
        tensors = {
            spec.name: from_raw(part, spec, shape)
            for (spec, shape), part in zip(self.inputs, raw, strict=True)
        }
        rows, call = self.signature.check(tensors), self.call
        return InferenceCall(
            tensors, rows, call.outputs, call.id, call.binary, timeout=call.timeout
        )


class InferMemo:
    """The last few kinds of requests."""

    def __init__(self) -> None:
        self._known: list[Known] = []
        self.tensors_at = 0
        """Where the tensors began in the last large message that was known."""

    def find(self, payload: bytes | memoryview) -> tuple[Known, list[bytes | memoryview]] | None:
        """What is known of a request like this one, and its raw contents."""
        for number, known in enumerate(self._known):
            size = len(known.before)
            if payload[:size] == known.before:
                raw = _raw_after(payload, size, most=len(known.inputs))
                if raw is None or len(raw) != len(known.inputs):
                    return None
                if number:  # the next one will be like it
                    self._known.insert(0, self._known.pop(number))
                if len(payload) > _LARGE:
                    self.tensors_at = size + 1 + _size_of(len(raw[0]))
                return known, raw
        return None

    def learn(
        self,
        payload: bytes | memoryview,
        call: InferenceCall,
        *,
        model_name: str,
        model_version: str,
        signature: Signature,
        raw_sizes: list[int],
    ) -> None:
        """Remember a request that was decoded; only if it has no id, as each has its own."""
        after = sum(1 + _size_of(size) + size for size in raw_sizes)
        size = len(payload) - after
        if call.id is not None or not raw_sizes or not 0 < size <= _MOST:
            return
        raw = _raw_after(payload, size, most=len(raw_sizes))
        if raw is None or [len(part) for part in raw] != raw_sizes:
            return  # its raw contents are not all at the end
        inputs = tuple(
            (signature.input(name), list(array.shape)) for name, array in call.tensors.items()
        )
        bare = InferenceCall({}, 0, call.outputs, None, call.binary, timeout=call.timeout)
        before = bytes(payload[:size])
        known = Known(before, model_name, model_version, signature, inputs, bare)
        self._known = [known, *(k for k in self._known if k.before != before)][:_REMEMBERED]


def _size_of(length: int) -> int:
    """Bytes of a length, as protobuf writes it."""
    return max(1, (length.bit_length() + 6) // 7)


def _raw_after(
    payload: bytes | memoryview, at: int, *, most: int
) -> list[bytes | memoryview] | None:
    """The raw contents, at most so many, that the rest of a message consists of; None if it is
    something else."""
    found: list[bytes | memoryview] = []
    end = len(payload)
    while at < end:
        if payload[at] != _RAW_TAG or len(found) == most:
            return None
        at += 1
        length = shift = 0
        while True:
            if at >= end or shift > 28:
                return None
            byte = payload[at]
            at += 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if at + length > end:
            return None
        found.append(payload[at : at + length])
        at += length
    return found
