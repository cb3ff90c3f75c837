"""Heads that a connection has seen before, and receiving bodies where they are read.

A client sends the same head with every request of a kind, byte for byte, and so means the same: it
is compared, and not parsed again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from coalmine.serving._http_call import Route, padding_of

if TYPE_CHECKING:
    from coalmine.serving._http1_direct import DirectProtocol
    from coalmine.serving._http_door import DirectCall

__all__ = ["Ahead", "KnownHead", "Rest"]

_LONGEST = 4096
_END = b"\r\n\r\n"
#: Bytes of a body from which on the next one is received in place; a smaller one is copied as fast.
_SMALLEST = 16 * 1024


class KnownHead(NamedTuple):
    """The head of an inference request with a body of known length."""

    text: bytes
    route: Route
    headers: dict[bytes, bytes]
    length: int
    """Of the body."""

    padding: int
    """Bytes to leave in front of the head, so that what follows the body's JSON is aligned."""

    @classmethod
    def learn(cls, data: bytes, route: Route, headers: dict[bytes, bytes]) -> KnownHead | None:
        """The head that the data begin with, parsed as `headers`; None if it is nothing to learn.

        Nothing but the text may decide what it means, and where it ends: so no chunks, and no line
        that ends otherwise than lines should.
        """
        end = data.find(_END, 0, _LONGEST) + len(_END)
        length = headers.get(b"content-length", b"")
        if end < len(_END) or not length.isdigit() or b"transfer-encoding" in headers:
            return None
        lines = data.count(b"\n", 0, end)
        if not data.startswith(b"POST ") or lines != data.count(b"\r\n", 0, end):
            return None
        return cls(data[:end], route, headers, int(length), padding_of(headers, before=end))

    @property
    def is_worth_a_place(self) -> bool:
        """Whether the next request with this head is received in place."""
        return self.length >= _SMALLEST


class _InPlace(asyncio.BufferedProtocol):
    """Receives for a protocol, which keeps hearing of everything else."""

    def __init__(self, protocol: DirectProtocol) -> None:
        self._protocol = protocol

    def eof_received(self) -> bool | None:
        """As without us."""
        self._protocol.eof_received()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """As without us."""
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """As without us."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """As without us."""
        self._protocol.resume_writing()


class Rest(_InPlace):
    """Receives the rest of a body where it belongs, then lets the protocol go on."""

    def __init__(self, protocol: DirectProtocol, call: DirectCall) -> None:
        super().__init__(protocol)
        self._call = call
        self._rest = cast(memoryview, call.room())

    def get_buffer(self, sizehint: int) -> memoryview:
        """What is still missing."""
        return self._rest

    def buffer_updated(self, nbytes: int) -> None:
        """Some of it is there."""
        self._rest = self._rest[nbytes:]
        if self._call.placed(nbytes) or not self._rest:
            self._protocol.body_received(self._call)


class Ahead(_InPlace):
    """Receives requests like the one before, each into a place of its own.

    What turns out to be anything else than one such request, or its beginning, is given to the
    protocol, which takes it from there.
    """

    def __init__(self, protocol: DirectProtocol, known: KnownHead) -> None:
        super().__init__(protocol)
        self.known = known
        self._size = len(known.text) + known.length
        self._place: memoryview | None = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """Room for such a request, and for one byte more: that there is none ends the reading."""
        padding = self.known.padding
        # Not zeroed, and no memory until it is written.
        self._place = place = np.empty(padding + self._size + 1, np.uint8).data[padding:]
        return place

    def buffer_updated(self, nbytes: int) -> None:
        """Something has come."""
        place, self._place = self._place, None
        assert place is not None
        known, protocol = self.known, self._protocol
        begin = len(known.text)
        if begin <= nbytes <= self._size and place[:begin] == known.text and protocol.is_between:
            if nbytes == self._size:
                protocol.repeated(known, place[begin:nbytes])
            else:
                protocol.begun(known, place[begin : self._size], received=nbytes - begin)
        else:
            protocol.transport.set_protocol(protocol)
            protocol.data_received(bytes(place[:nbytes]))
