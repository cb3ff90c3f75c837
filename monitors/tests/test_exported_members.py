"""What each package shows is complete, sorted and there."""

from __future__ import annotations

import importlib

import pytest

PACKAGES = [
    "coalmine_monitors",
    "coalmine_monitors.detectors",
    "coalmine_monitors.drift",
    "coalmine_monitors.extension",
    "coalmine_monitors.label_shift",
    "coalmine_monitors.multivariate",
    "coalmine_monitors.online",
    "coalmine_monitors.performance",
    "coalmine_monitors.quality",
    "coalmine_monitors.sketches",
]


@pytest.mark.parametrize("name", PACKAGES)
def test_all_is_sorted_and_complete(name: str) -> None:
    package = importlib.import_module(name)
    exported = package.__all__
    by_kind = sorted(exported, key=lambda item: (not item.isupper(), item[0].islower(), item))
    assert exported == by_kind
    assert all(hasattr(package, item) for item in exported)
