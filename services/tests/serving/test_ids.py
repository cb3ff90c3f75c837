"""The gateway's own id: the same at every arm, but never before one of the caller's."""

from __future__ import annotations

from coalmine.clock import ManualClock
from coalmine.serving._ids import request_id

GATEWAY = {b"x-coalmine-request-id": b"from-the-gateway"}


def test_a_request_without_an_id_has_the_gateways_at_every_arm() -> None:
    assert request_id(GATEWAY, None, ManualClock()) == "from-the-gateway"


def test_the_callers_id_goes_first() -> None:
    assert request_id({**GATEWAY, b"ce-id": b"mine"}, None, ManualClock()) == "mine"
    assert request_id(GATEWAY, "in-the-body", ManualClock()) == "in-the-body"
