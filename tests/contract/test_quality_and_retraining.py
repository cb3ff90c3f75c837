"""The retrainer asks the real data-quality monitor: what it names is not retrained on."""

from __future__ import annotations

from pathlib import Path

import httpx

from coalmine.incidents import AffectedFeature, Incident
from coalmine.records import open_log
from coalmine.retraining._peers import Peers
from coalmine.spec import ServiceSpec
from coalmine_monitors import create_quality_app
from coalmine_monitors._state import StateStore, put_incidents


def incident(name: str, *features: str) -> Incident:
    named = tuple(
        AffectedFeature(name=feature, statistic="missing", score=1.0, threshold=0.01)
        for feature in features
    )
    return Incident(
        id=name, kind="data_quality", model_name="demo", model_version="1", summary=name,
        onset_at=1.0, opened_at=2.0, updated_at=2.0, features=named,
    )  # fmt: skip


async def test_an_incident_suppresses_what_it_names_and_the_streams_own_faults_nothing(
    tmp_path: Path,
) -> None:
    spec = ServiceSpec.model_validate({"name": "demo", "model": {"uri": "file:/nowhere"}})
    log = open_log(f"sqlite:///{tmp_path / 'records.db'}")
    state = tmp_path / "quality.db"
    app = create_quality_app(spec, log=log, state=state, models=tmp_path / "models")
    with StateStore(state).reading() as connection:
        put_incidents(connection, [incident("sensor", "soc"), incident("surge", "(volume)")])
        connection.execute("COMMIT")
    async with Peers(
        quality_url="http://quality", rollout_url="http://x", model_name="demo"
    ) as peers:
        await peers._client.aclose()
        peers._client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app))
        touched = await peers.quality({"soc", "current"})
        assert touched.incident is not None
        assert "sensor" in touched.incident
        assert (await peers.quality({"current"})).incident is None
        assert (await peers.quality(None)).incident is not None
    log.close()
