"""A whole file of labels looked at before any of it is stored: mistakes, and contradictions.

A row that is given two labels at the same time has no newest one, and which of the two a log keeps
would be a matter of their order in the file. So such a file is refused, like one with any other
mistake. With two times it is a correction, and the newest counts.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from coalmine.records._errors import MalformedLabelsError
from coalmine.records._fingerprints import Fingerprints, fingerprints
from coalmine.records._label_files import LabelFormat, numbered_labels
from coalmine.records._schema import class_name
from coalmine.records._types import Label

__all__ = ["check_labels"]

_PIECE = 10_000
_EXAMPLES = 3


def check_labels(
    file: BinaryIO, format: LabelFormat, *, now: float, classes: tuple[str, ...] = ()
) -> int:
    """The number of labels in a file, as `read_labels` reads it; it is read to its end.

    MalformedLabelsError for a mistake, and where the same row of the same request has two labels at
    the same time. Of `classes` an index is the same as a name; where they are not known, an index
    does not contradict a name. Sixteen bytes a label are kept meanwhile.
    """
    said, all_said = [], []
    with _opened(file, format, now=now, classes=classes) as numbered:
        while piece := [label for _, label in itertools.islice(numbered, _PIECE)]:
            texts = [_what(label) for label in piece]
            said.append(fingerprints(pa.array(texts)))
            whole = [f"{text}\0{label.label}" for text, label in zip(texts, piece, strict=True)]
            all_said.append(fingerprints(pa.array(whole)))
    if not said:
        return 0
    what = np.concatenate(said)
    doubted = _of_several(what, np.concatenate(all_said))
    if len(doubted):
        with _opened(file, format, now=now, classes=classes) as numbered:
            _refuse(numbered, what=what, doubted=doubted)
    return len(what)


Numbered = Iterator[tuple[int, Label]]


@contextlib.contextmanager
def _opened(
    file: BinaryIO, format: LabelFormat, *, now: float, classes: tuple[str, ...]
) -> Iterator[Numbered]:
    """The labels from the first, with the names of their classes."""
    file.seek(0)
    with contextlib.closing(numbered_labels(file, format, now=now)) as numbered:
        yield ((n, label._replace(label=class_name(label.label, classes))) for n, label in numbered)


def _what(label: Label) -> str:
    """What a label is about, and since when; and whether it is a number, which may be an index."""
    is_number = label.label.lstrip("-")[:1].isdecimal()
    return f"{label.request_id}\0{label.row}\0{label.time!r}\0{is_number}"


def _of_several(what: Fingerprints, whole: Fingerprints) -> Fingerprints:
    """Of what there is more than one label, sorted."""
    if len(np.unique(what)) == len(np.unique(whole)):  # as ever, so nothing more is held
        return what[:0]
    _, first = np.unique(whole, return_index=True)
    found, count = np.unique(what[first], return_counts=True)
    several: Fingerprints = found[count > 1]
    return several


def _refuse(numbered: Numbered, *, what: Fingerprints, doubted: Fingerprints) -> None:
    """MalformedLabelsError with the first of them; `what` each of the labels is about."""
    places = np.flatnonzero(np.isin(what, doubted))
    _, first = np.unique(what[places], return_index=True)
    named = what[places[np.sort(first)[:_EXAMPLES]]]
    examples = np.isin(what, named).tolist()
    found = list(_contradictions(itertools.compress(numbered, examples)))
    if not found:  # two texts of one fingerprint
        return
    more = f"; and {len(doubted) - len(found)} more" if len(doubted) > len(found) else ""
    raise MalformedLabelsError(
        f"{'; '.join(found)}{more}. Which one holds? Leave the others out, or give each a `time`: "
        "the newest counts"
    )


def _contradictions(rows: Numbered) -> Iterator[str]:
    """A sentence for each row of a request whose labels differ, about the first two that do."""
    known: dict[str, tuple[int, Label]] = {}
    told: set[str] = set()
    for number, label in rows:
        key = _what(label)
        earlier, other = known.setdefault(key, (number, label))
        if label.label != other.label and key not in told:
            told.add(key)
            yield (
                f"row {number}: request {label.request_id!r:.80}, row {label.row} is "
                f"{label.label!r:.80} here and {other.label!r:.80} in row {earlier}"
            )
