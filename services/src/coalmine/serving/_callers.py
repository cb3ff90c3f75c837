"""Who asks, as far as it is recorded: the block of callers that a request is of.

A rollout deals out sticky callers, not requests, so what it judges by has to say which requests are
of the same one. A record holds 12 bits of a salted hash of the caller's key, and never the key:
that tells callers apart where they are few, and hides each among others where they are many. Two
callers in one block are one cluster, which statistics of clusters may be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from coalmine.records import CALLER_BLOCKS, CALLER_NONE, CALLER_UNKNOWN

__all__ = ["CallerBlocks"]


class CallerBlocks:
    """Reads the caller out of a request's headers; `header` None: nobody is looked for.

    >>> blocks = CallerBlocks("x-user-id", salt="iris")
    >>> blocks.of({b"x-user-id": b"ada"}) == blocks.of({b"x-user-id": b"ada", b"host": b"a"})
    True
    >>> blocks.of({}), CallerBlocks(None, salt="iris").of({b"x-user-id": b"ada"})
    (-1, -2)
    """

    def __init__(self, header: str | None, *, salt: str) -> None:
        self._header = None if header is None else header.lower().encode("latin-1")
        self._hash = hashlib.blake2b(key=salt.encode()[:64], digest_size=4)

    def of(self, headers: Mapping[bytes, bytes]) -> int:
        """The block, `CALLER_NONE` or `CALLER_UNKNOWN`."""
        if self._header is None:
            return CALLER_UNKNOWN
        key = headers.get(self._header)
        if not key:
            return CALLER_NONE
        hashed = self._hash.copy()
        hashed.update(key)
        return int.from_bytes(hashed.digest(), "big") % CALLER_BLOCKS
