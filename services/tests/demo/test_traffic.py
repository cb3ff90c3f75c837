"""Traffic against a real server: three protocols, pacing, resending, and what counts as failed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import Response

from coalmine.demo._labels import LabelCourier
from coalmine.demo._ledger import Phase, TruthLedger
from coalmine.demo._traffic import Pace, Traffic
from coalmine.demo._uploads import UploadSource
from coalmine.demo.client import Client, GatewayHealth, GrpcClient, HttpClient

from .conftest import CLASSES, ToyFleet, ToyGateway


def clients_of(gateway: ToyGateway, protocols: Sequence[str]) -> list[Client]:
    health = GatewayHealth()
    known: dict[str, Client] = {
        "v1": HttpClient(gateway.url, model="toy", protocol="v1", health=health),
        "v2": HttpClient(gateway.url, model="toy", protocol="v2", health=health),
        "grpc": GrpcClient(f"127.0.0.1:{gateway.grpc_port}", model="toy", health=health),
    }
    return [known[protocol] for protocol in protocols]


@asynccontextmanager
async def traffic_to(
    gateway: ToyGateway,
    *,
    pace: Pace,
    protocols: Sequence[str] = ("v1", "v2", "grpc"),
    fleet: ToyFleet | None = None,
) -> AsyncIterator[tuple[Traffic, TruthLedger]]:
    ledger = TruthLedger(classes=CLASSES)
    clients = clients_of(gateway, protocols)
    source = UploadSource(fleet or ToyFleet(), chunk=16)
    traffic = Traffic(source=source, clients=clients, ledger=ledger, pace=pace)
    running = asyncio.create_task(traffic.run())
    try:
        yield traffic, ledger
    finally:
        traffic.stop()
        await running
        for client in clients:
            await client.aclose()


async def answers(ledger: TruthLedger, count: int) -> None:
    async with asyncio.timeout(20):
        while len(ledger.answers) < count:
            await asyncio.sleep(0.02)


async def test_every_protocol_is_answered_rightly_and_in_turn(gateway: ToyGateway) -> None:
    async with traffic_to(gateway, pace=Pace(requests_per_s=100)) as (traffic, ledger):
        await answers(ledger, 60)
    assert traffic.stats.failed == traffic.stats.resent == 0, traffic.stats.failures
    by_protocol = Counter(answer.protocol for answer in ledger.answers)
    assert max(by_protocol.values()) - min(by_protocol.values()) <= 1
    assert set(by_protocol) == {"v1", "v2", "grpc"}
    assert ledger.accuracy(Phase.BEFORE).value == 1.0
    assert {(a.arm, a.version) for a in ledger.answers} == {("stable", "1")}
    assert set(gateway.seen.values()) == {1}


async def test_a_changed_world_shows_and_phases_are_kept_apart(gateway: ToyGateway) -> None:
    fleet = ToyFleet()
    ledger = TruthLedger(classes=CLASSES)
    source = UploadSource(fleet, chunk=16)
    clients = clients_of(gateway, ["v2"])
    traffic = Traffic(source=source, clients=clients, ledger=ledger, pace=Pace(requests_per_s=200))
    running = asyncio.create_task(traffic.run())
    await answers(ledger, 20)
    source.change("new")
    traffic.phase = Phase.AFTER
    upload = await source.next()
    assert upload.windows["soc"].min() >= 10
    await answers(ledger, len(ledger.answers) + 20)
    traffic.stop()
    await running
    await clients[0].aclose()
    assert ledger.accuracy(Phase.BEFORE).requests >= 20
    assert ledger.accuracy(Phase.AFTER).requests >= 15


async def test_a_restarted_gateway_loses_no_request(gateway: ToyGateway) -> None:
    async with traffic_to(gateway, pace=Pace(requests_per_s=60)) as (traffic, ledger):
        await answers(ledger, 20)
        await gateway.stop()
        await asyncio.sleep(1.0)
        # A gateway that is just up again knows no routes yet: that is no answer of the service.
        gateway.refuse = Response(status_code=503, content=b"no routes")
        await gateway.start()
        await asyncio.sleep(0.3)
        gateway.refuse = None
        await answers(ledger, len(ledger.answers) + 30)
    assert traffic.stats.failed == 0, traffic.stats.failures
    assert traffic.stats.resent > 0
    assert len({answer.request_id for answer in ledger.answers}) == traffic.stats.requests


async def test_a_gateway_that_stays_away_fails_the_request(gateway: ToyGateway) -> None:
    pace = Pace(requests_per_s=20, in_flight=2, resend_for_s=0.5)
    async with traffic_to(gateway, pace=pace) as (traffic, ledger):
        await answers(ledger, 3)
        await gateway.stop()
        async with asyncio.timeout(10):
            while traffic.stats.failed < 2:
                await asyncio.sleep(0.05)
        await gateway.start()
    assert traffic.stats.resent >= 2
    assert traffic.stats.failures


async def test_refusals_without_a_broken_connection_are_failures(gateway: ToyGateway) -> None:
    gateway.refuse = Response(status_code=503, content=b"no healthy upstream")
    async with traffic_to(gateway, pace=Pace(requests_per_s=50)) as (traffic, ledger):
        async with asyncio.timeout(10):
            while traffic.stats.failed < 12:
                await asyncio.sleep(0.02)
    assert traffic.stats.resent == 0
    assert not ledger.answers
    assert set(gateway.seen.values()) == {1}


async def test_answers_that_are_no_predictions_are_failures(gateway: ToyGateway) -> None:
    headers = {"x-coalmine-arm": "stable"}
    gateway.refuse = Response(status_code=200, content=b'{"predictions": [{}]}', headers=headers)
    async with traffic_to(gateway, pace=Pace(requests_per_s=50), protocols=["v1", "v2"]) as (
        traffic,
        ledger,
    ):
        async with asyncio.timeout(10):
            while traffic.stats.failed < 4:
                await asyncio.sleep(0.02)
    assert not ledger.answers


async def test_a_slow_system_slows_the_pace_and_nothing_piles_up(gateway: ToyGateway) -> None:
    gateway.delay_s = 0.2
    pace = Pace(requests_per_s=500, in_flight=4)
    async with traffic_to(gateway, pace=pace, protocols=["v2"]) as (traffic, ledger):
        await answers(ledger, 12)
        gateway.delay_s = 0.0
        before, since = len(ledger.answers), time.monotonic()
        await asyncio.sleep(0.5)
        rate = (len(ledger.answers) - before) / (time.monotonic() - since)
    assert gateway.most_in_flight <= 4
    # What was missed while it was slow is not made up for in a burst.
    assert rate < 700
    assert traffic.stats.failed == 0


async def test_labels_survive_a_collector_that_is_away_full_or_restarted(
    gateway: ToyGateway,
) -> None:
    async with traffic_to(gateway, pace=Pace(requests_per_s=80, seconds_per_day=0.2)) as (
        _,
        ledger,
    ):
        courier = LabelCourier(gateway.url, ledger=ledger)
        running = asyncio.create_task(courier.run())
        await answers(ledger, 10)
        gateway.label_status = [503, 429, 503]
        await answers(ledger, 30)
        await gateway.stop()
        await asyncio.sleep(0.5)
        await gateway.start()
        await answers(ledger, 60)
    courier.hurry()
    async with asyncio.timeout(10):
        await running
    assert courier.refused is None
    assert ledger.labels_due == ledger.labels_delivered == 8 * len(ledger.answers)
    delivered = {(label["request_id"], label["row"]): label["label"] for label in gateway.labels}
    for answer in ledger.answers:
        for row, truth in enumerate(answer.truth):
            assert delivered[(answer.request_id, row)] == CLASSES[truth]


async def test_labels_refused_for_good_are_told_and_not_counted(gateway: ToyGateway) -> None:
    async with traffic_to(gateway, pace=Pace(requests_per_s=80)) as (_, ledger):
        await answers(ledger, 5)
    gateway.label_status = [400]
    courier = LabelCourier(gateway.url, ledger=ledger)
    courier.hurry()
    await courier.run()
    assert courier.refused is not None
    assert courier.refused.startswith("400")
    assert ledger.labels_delivered < ledger.labels_due
