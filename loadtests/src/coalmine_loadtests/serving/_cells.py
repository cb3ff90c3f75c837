"""What is asked: a model, a protocol, how many rows a request has and how many are under way.

The name of a cell says it: `mlp/json64_c8` is 64 rows a request in V2 JSON over 8 connections,
`mlp/grpc1_c8m8` one row over gRPC with 8 streams on each of 8 connections, and `mlp/call64` 64 rows
in a call of ONNX Runtime in process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CELLS", "Cell", "Protocol", "cells_of"]

Protocol = Literal["json", "binary", "grpc", "call"]

_SHORT: dict[Protocol, str] = {"json": "json", "binary": "bin", "grpc": "grpc", "call": "call"}


@dataclass(frozen=True, slots=True)
class Cell:
    """`connections` and `streams` (of each connection, gRPC alone) are requests under way."""

    model: str
    protocol: Protocol
    rows: int
    connections: int = 1
    streams: int = 1

    @property
    def name(self) -> str:
        """As written in tables, and asked for with `--cell`."""
        if self.protocol == "call":
            return f"{self.model}/call{self.rows}"
        streams = f"m{self.streams}" if self.protocol == "grpc" else ""
        rows = f"{_SHORT[self.protocol]}{self.rows}"
        return f"{self.model}/{rows}_c{self.connections}{streams}"


#: By name, in the order of the report and of the measurement: batches come last, so that records
#: of theirs which a server still has to ship are not charged to single rows.
CELLS = {
    cell.name: cell
    for cell in (
        Cell("mlp", "json", 1, 8),
        Cell("mlp", "json", 1, 64),
        Cell("mlp", "grpc", 1, 8),
        Cell("mlp", "grpc", 1, 8, 8),
        Cell("mlp", "json", 64, 8),
        Cell("mlp", "binary", 64, 8),
        Cell("mlp", "binary", 1024, 8),
        Cell("mlp", "grpc", 1024, 8),
        Cell("gbt", "json", 1, 64),
        Cell("gbt", "grpc", 1, 8, 8),
        Cell("gbt", "binary", 64, 8),
        Cell("nop", "json", 1, 64),
        Cell("nop", "grpc", 1, 8, 8),
        Cell("wide", "binary", 1, 1),
        Cell("wide", "binary", 1, 4),
        Cell("wide", "grpc", 1, 1),
        Cell("image", "binary", 1, 1),
        Cell("image", "binary", 1, 4),
        Cell("image", "grpc", 1, 1),
        Cell("image", "grpc", 1, 4),
        Cell("mlp", "call", 1),
        Cell("mlp", "call", 64),
        Cell("mlp", "call", 1024),
        Cell("gbt", "call", 1),
        Cell("gbt", "call", 64),
        Cell("nop", "call", 1),
        Cell("wide", "call", 1),
        Cell("image", "call", 1),
    )
}


def cells_of(
    *models: str, protocols: tuple[Protocol, ...] = ("json", "binary", "grpc")
) -> tuple[str, ...]:
    """Names of all cells of these models over these protocols."""
    return tuple(
        name for name, cell in CELLS.items() if cell.model in models and cell.protocol in protocols
    )
