"""How much work a JPEG is, before it is decoded.

A progressive JPEG is refined scan by scan, each of which passes over all of its pixels again. One
that changes nothing is a hundred bytes for as many pixels as a picture may have: sixteen megabytes
of them are more than an hour of a processor. Encoders write about ten.
"""

from __future__ import annotations

import re
import struct

__all__ = ["MOST_SCANS", "has_too_many_scans"]

MOST_SCANS = 100
_SCAN = b"\xff\xda"
_END = b"\xff\xd9"
#: A marker in compressed data: neither a stuffed 0xff, nor a restart, nor padding.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_LENGTH = struct.Struct(">H")


def has_too_many_scans(file: bytes) -> bool:
    """Whether a JPEG has more scans than `MOST_SCANS`.

    >>> has_too_many_scans(b"\\xff\\xd8" + b"\\xff\\xda\\x00\\x02 " * 101)
    True
    """
    if file.count(_SCAN) <= MOST_SCANS:
        return False
    # What follows the picture, a video of the same moment say, may look like scans by chance.
    scans, at = 0, 2
    while scans <= MOST_SCANS and (found := _MARKER.search(file, at)):
        marker, at = found.group(), found.end()
        if marker == _END:
            return False
        scans += marker == _SCAN
        if at + _LENGTH.size <= len(file):
            at += _LENGTH.unpack_from(file, at)[0]
    return scans > MOST_SCANS
