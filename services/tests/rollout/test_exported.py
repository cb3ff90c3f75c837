"""The package's one door."""

from __future__ import annotations

import coalmine.rollout
import coalmine.rollout.eprocesses


def test_every_public_name_is_exported_and_sorted() -> None:
    for package in (coalmine.rollout, coalmine.rollout.eprocesses):
        names = list(package.__all__)
        assert names == sorted(names, key=str.casefold) or names == sorted(names)
        assert all(hasattr(package, name) for name in names)
