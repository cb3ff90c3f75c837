"""Which server is measured in which cells, from what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coalmine_loadtests.serving._cells import CELLS, Cell
from coalmine_loadtests.serving._errors import ServingBenchError
from coalmine_loadtests.serving._server import Server

__all__ = ["IN_PROCESS", "Step", "plan", "select_cells", "select_servers"]

#: The ceiling that is no server: the model called in a loop.
IN_PROCESS = "onnxruntime"


@dataclass(frozen=True, slots=True)
class Step:
    """One server with one model."""

    server: Server
    model: str
    cells: tuple[Cell, ...]


def select_servers(asked: Sequence[str], servers: Sequence[Server]) -> tuple[list[Server], bool]:
    """The servers asked for, and whether the model in process is among them; of none, all."""
    known = {server.name for server in servers} | {server.peer for server in servers}
    for name in asked:
        if name not in known | {IN_PROCESS}:
            allowed = ", ".join([*(server.name for server in servers), IN_PROCESS])
            raise ServingBenchError(f"--peer {name}: no such peer; allowed: {allowed}")
    chosen = [s for s in servers if not asked or s.name in asked or s.peer in asked]
    return chosen, not asked or IN_PROCESS in asked


def select_cells(asked: Sequence[str]) -> list[Cell]:
    """The cells asked for, by name or by model; of none, all."""
    models = {cell.model for cell in CELLS.values()}
    for name in asked:
        if name not in CELLS and name not in models:
            raise ServingBenchError(
                f"--cell {name}: no such cell; allowed: a model ({', '.join(sorted(models))}) or "
                f"{', '.join(CELLS)}"
            )
    return [c for c in CELLS.values() if not asked or c.name in asked or c.model in asked]


def plan(servers: Sequence[Server], cells: Sequence[Cell]) -> list[Step]:
    """A start for every server and model of which a cell is asked for."""
    steps = []
    for server in servers:
        mine = [cell for cell in cells if cell.name in server.cells]
        for model in dict.fromkeys(cell.model for cell in mine):
            steps.append(Step(server, model, tuple(c for c in mine if c.model == model)))
    return steps
