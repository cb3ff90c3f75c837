"""The gateway's own id: the same at every arm, but never before one of the caller's."""

from __future__ import annotations

from uuid import RFC_4122, UUID

import pytest

from coalmine.clock import ManualClock
from coalmine.serving._ids import request_id

GATEWAY = {b"x-coalmine-request-id": b"from-the-gateway"}


def test_a_request_without_an_id_has_the_gateways_at_every_arm() -> None:
    assert request_id(GATEWAY, None, ManualClock()) == "from-the-gateway"


def test_the_callers_id_goes_first() -> None:
    assert request_id({**GATEWAY, b"ce-id": b"mine"}, None, ManualClock()) == "mine"
    assert request_id(GATEWAY, "in-the-body", ManualClock()) == "in-the-body"


@pytest.mark.parametrize("bad", ["", "two words", "tab\t", "é", "x" * 129, "line\n"])
def test_an_id_that_cannot_be_a_header_is_passed_over(bad: str) -> None:
    headers = {b"x-request-id": bad.encode(), b"ce-id": b"next"}
    assert request_id(headers, None, ManualClock()) == "next"
    assert request_id({b"ce-id": bad.encode()}, "body", ManualClock()) == "body"
    assert UUID(request_id({}, bad, ManualClock())).version == 7
    assert request_id(GATEWAY, bad, ManualClock()) == "from-the-gateway"
    assert UUID(request_id({b"x-coalmine-request-id": bad.encode()}, bad, ManualClock()))


def test_the_longest_id_is_taken_and_a_trace_of_zeros_is_none() -> None:
    assert request_id({b"x-request-id": b"~" * 128}, None, ManualClock()) == "~" * 128
    trace, zeros = b"00-%b-00f067aa0ba902b7-01" % (b"4b" * 16), b"00-%b-00f067aa0ba902b7-01"
    assert request_id({b"traceparent": trace}, "body", ManualClock()) == "4b" * 16
    nothing = {b"traceparent": zeros % (b"0" * 32)}
    assert request_id(nothing, "body", ManualClock()) == "body"


def test_a_new_id_is_a_uuid_of_the_seventh_version_by_the_clock() -> None:
    clock = ManualClock()
    made = [UUID(request_id({}, None, clock)) for _ in range(50)]
    for one in made:
        assert (one.version, one.variant) == (7, RFC_4122)
        assert one.int >> 80 == int(clock.time() * 1000)
    assert len(set(made)) == 50
