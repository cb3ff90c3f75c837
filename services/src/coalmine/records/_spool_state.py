"""The state of a spool: who emits, what is acknowledged, what was dropped and why.

One block, written in place: it never needs space that a full disk could refuse, and a killed
process leaves either the old or the new one.
"""

from __future__ import annotations

import os
import struct
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from zlib import crc32

__all__ = ["BEFORE", "STATE_FILE", "WITHIN", "SpoolState", "load_state", "store_state"]

STATE_FILE = "state"

#: Why rows were dropped before they got a sequence number, and after.
BEFORE = ("spool_full", "write_error", "malformed")
WITHIN = ("rejected", "corrupt")
_REASONS = (*BEFORE, *WITHIN)

_BLOCK = struct.Struct(f"<8s16sQ{len(_REASONS)}Q")
_CRC = struct.Struct("<I")
_MAGIC = b"coalrec1"


@dataclass(frozen=True, slots=True)
class SpoolState:
    """What outlives the process beside the frames."""

    emitter: str = field(default_factory=lambda: uuid.uuid4().hex)
    acknowledged: int = 0
    """Sequence number up to which rows are in the log, or given up."""

    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_REASONS, 0))

    def with_dropped(self, reason: str, rows: int) -> SpoolState:
        """The state after some rows were dropped."""
        return replace(self, dropped={**self.dropped, reason: self.dropped[reason] + rows})

    def with_acknowledged(self, seq: int) -> SpoolState:
        """The state after an acknowledgement."""
        return replace(self, acknowledged=seq)


def load_state(directory: Path) -> SpoolState | None:
    """The state of a spool; None if it has none, or one that a crash of the machine spoilt."""
    try:
        data = (directory / STATE_FILE).read_bytes()
    except FileNotFoundError:
        return None
    if len(data) != _BLOCK.size + _CRC.size:
        return None
    block, (checksum,) = data[: _BLOCK.size], _CRC.unpack(data[_BLOCK.size :])
    if crc32(block) != checksum:
        return None
    magic, emitter, acknowledged, *dropped = _BLOCK.unpack(block)
    if magic != _MAGIC:
        return None
    return SpoolState(
        uuid.UUID(bytes=emitter).hex, acknowledged, dict(zip(_REASONS, dropped, strict=True))
    )


def store_state(descriptor: int, state: SpoolState) -> None:
    """Write the state through an open descriptor, in one call."""
    block = _BLOCK.pack(
        _MAGIC, uuid.UUID(hex=state.emitter).bytes, state.acknowledged, *state.dropped.values()
    )
    os.pwrite(descriptor, block + _CRC.pack(crc32(block)), 0)
