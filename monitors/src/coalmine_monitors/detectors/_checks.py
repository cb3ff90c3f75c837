"""What every detector has to satisfy, as tests that any of them can be given to."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Case", "Checked", "yield_checks"]

#: Bytes of state that no detector here needs to exceed for some tens of features.
MAX_STATE = 256 * 1024


class Checked(Protocol):
    """What the checks need of a detector, beside its `update`."""

    @property
    def detected(self) -> bool:
        """The verdict so far."""

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, for JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the detector that gave `state`."""


@dataclass(frozen=True)
class Case:
    """A detector, a stream on which nothing happens, and one with trouble in its second half."""

    name: str
    make: Callable[[], Checked]
    feed: Callable[[Any, Any], None]
    """Gives a detector a piece of a stream."""

    calm: Any
    troubled: Any
    """Streams can be sliced by rows."""


def yield_checks(case: Case) -> Iterator[tuple[str, Callable[[], None]]]:
    """Named checks; each raises AssertionError with what is wrong.

    The idea is river's `checks.yield_checks`.
    """
    for check in (
        _is_quiet,
        _finds_trouble,
        _does_not_care_for_pieces,
        _survives_restarts,
        _is_reproducible,
        _leaves_input_alone,
        _stays_small,
    ):
        yield f"{case.name}:{check.__name__.strip('_')}", _bound(check, case)


def _bound(check: Callable[[Case], None], case: Case) -> Callable[[], None]:
    return lambda: check(case)


def _verdicts(case: Case, stream: Any, *, pieces: int, restart: bool = False) -> tuple[Any, str]:
    """Verdicts after each piece, and the last state as text."""
    detector, verdicts = case.make(), []
    size = len(stream)
    for index in range(pieces):
        part = stream[size * index // pieces : size * (index + 1) // pieces]
        case.feed(detector, part)
        verdicts.append(detector.detected)
        if restart:
            state = json.loads(json.dumps(detector.state()))
            detector = case.make()
            detector.restore(state)
    return verdicts, json.dumps(detector.state())


def _is_quiet(case: Case) -> None:
    verdicts, _ = _verdicts(case, case.calm, pieces=50)
    _require(not any(verdicts), "detected something where nothing happens")


def _finds_trouble(case: Case) -> None:
    verdicts, _ = _verdicts(case, case.troubled, pieces=50)
    _require(not any(verdicts[:24]), "detected trouble before there was any")
    _require(verdicts[-1], "did not detect the trouble")


def _does_not_care_for_pieces(case: Case) -> None:
    _, whole = _verdicts(case, case.troubled, pieces=1)
    for pieces in (7, 50, 331):
        _, state = _verdicts(case, case.troubled, pieces=pieces)
        _require(state == whole, f"came to another state in {pieces} pieces")


def _survives_restarts(case: Case) -> None:
    plain = _verdicts(case, case.troubled, pieces=113)
    restarted = _verdicts(case, case.troubled, pieces=113, restart=True)
    _require(plain == restarted, "went another way after a restart")


def _is_reproducible(case: Case) -> None:
    runs = [_verdicts(case, case.troubled, pieces=50) for _ in range(2)]
    _require(runs[0] == runs[1], "gave two answers to one question")


def _leaves_input_alone(case: Case) -> None:
    before = copy.deepcopy(case.troubled)
    _verdicts(case, case.troubled, pieces=3)
    _require(repr(before) == repr(case.troubled), "changed what it was given")


def _stays_small(case: Case) -> None:
    sizes = []
    detector = case.make()
    for _ in range(4):
        case.feed(detector, case.calm)
        sizes.append(len(json.dumps(detector.state())))
    _require(max(sizes) < MAX_STATE, f"has a state of {max(sizes)} bytes")
    _require(sizes[-1] < 1.5 * sizes[0] + 1000, f"grows with the stream: {sizes} bytes")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
