"""The stream of uploads, from the real simulator."""

from __future__ import annotations

import numpy as np

from coalmine.apps.ev_battery import SCENARIO_WORLDS, Fleet, FleetConfig
from coalmine.demo._uploads import Upload, UploadSource

CONFIG = FleetConfig(vehicles=100, seed=4)


async def take(source: UploadSource, count: int) -> list[Upload]:
    return [await source.next() for _ in range(count)]


async def test_an_upload_is_one_vehicle_with_its_windows_truth_and_delays() -> None:
    source = UploadSource(Fleet(CONFIG), chunk=10)
    uploads = await take(source, 35)
    await source.aclose()
    for upload in uploads:
        assert 0 <= int(upload.vehicle) < 100
        assert {len(array) for array in upload.windows.values()} == {8}
        assert len(upload.truth) == len(upload.delay_days) == 8
        assert len(set(upload.truth.tolist())) == 1
        assert (upload.delay_days > 0).all()
    assert len({upload.vehicle for upload in uploads}) > 10


async def test_the_same_seed_gives_the_same_stream() -> None:
    streams = []
    for _ in range(2):
        source = UploadSource(Fleet(CONFIG), chunk=8)
        streams.append(await take(source, 20))
        await source.aclose()
    for one, other in zip(*streams, strict=True):
        assert one.vehicle == other.vehicle
        for name in one.windows:
            assert np.array_equal(one.windows[name], other.windows[name], equal_nan=True)


async def test_a_changed_world_is_in_the_very_next_upload() -> None:
    source = UploadSource(Fleet(CONFIG), chunk=8)
    before = await take(source, 30)
    source.change(SCENARIO_WORLDS["cold"])
    after = await take(source, 30)
    await source.aclose()

    def air(uploads: list[Upload]) -> float:
        return float(np.nanmean([upload.windows["coolant_temperature"] for upload in uploads]))

    assert air(after) < air(before) - 8
    assert air(after[:10]) < air(before) - 5
