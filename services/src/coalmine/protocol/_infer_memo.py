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

_LENGTH_DELIMITED = 2
_RAW_TAG = 7 << 3 | _LENGTH_DELIMITED
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
        before = bytes(payload[:size])
        raw = _raw_after(payload, size, most=len(raw_sizes))
        if raw is None or not _is_without_raw(before):
            return  # its raw contents are not all at the end
        inputs = tuple(
            (signature.input(name), list(array.shape)) for name, array in call.tensors.items()
        )
        bare = InferenceCall({}, 0, call.outputs, None, call.binary, timeout=call.timeout)
        known = Known(before, model_name, model_version, signature, inputs, bare)
        self._known = [known, *self._known][:_REMEMBERED]


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
        begin, at = _extent(payload, at + 1)
        if at > end:
            return None
        found.append(payload[begin:at])
    return found


def _is_without_raw(before: bytes) -> bool:
    """Whether these are whole fields, and none of them raw contents."""
    at, end = 0, len(before)
    while at < end:
        tag = before[at]
        if tag == _RAW_TAG or tag > 127 or tag & 7 != _LENGTH_DELIMITED:
            return False
        _, at = _extent(before, at + 1)
    return at == end


def _extent(payload: bytes | memoryview, at: int) -> tuple[int, int]:
    """Begin and end of what has its length written at a place; behind the payload, if it is cut."""
    length = shift = 0
    while at < len(payload) and shift <= 28:
        byte = payload[at]
        at += 1
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return at, at + length
    return at, len(payload) + 1
