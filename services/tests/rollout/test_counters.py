"""From scraped counters to blocks: what is not sure is no data, and never zero."""

from __future__ import annotations

import math

from coalmine.rollout import MeasuredBlock
from coalmine.rollout._counters import BUCKETS, REQUESTS, Sampled, measured_blocks

BLOCK = 10.0
Values = dict[float, float]


def requests(values: Values, *, status: int = 200, arm: str = "canary", pod: str = "a") -> Sampled:
    labels = {"revision": "4", "arm": arm, "instance": pod, "protocol": "v2", "status": str(status)}
    return Sampled(REQUESTS, labels, tuple(values.items()))


def bucket(values: Values, *, le: str, arm: str = "canary", pod: str = "a") -> Sampled:
    labels = {"revision": "4", "arm": arm, "instance": pod, "protocol": "v2", "le": le}
    return Sampled(BUCKETS, labels, tuple(values.items()))


def blocks(*series: Sampled, until: float = 1000.0) -> dict[float, MeasuredBlock]:
    _, found = measured_blocks(series, block_s=BLOCK, until=until)
    return {block.time: block for block in found}


def counts(found: dict[float, MeasuredBlock]) -> dict[float, tuple[int, int | None]]:
    return {time: (block.requests, block.errors) for time, block in found.items()}


def every(seconds: float, *values: float, start: float = 100.0) -> Values:
    return {start + seconds * place: value for place, value in enumerate(values)}


def test_increments_are_counted_in_the_block_in_which_they_end() -> None:
    found = blocks(requests(every(5, 7, 10, 14, 20, 21)))
    # The first scrape is of the block that ends with it; 105 and 110 end in the one after.
    assert counts(found) == {100.0: (7, 0), 110.0: (7, 0)}


def test_nothing_at_all_is_no_block() -> None:
    assert measured_blocks((), block_s=BLOCK, until=1000.0) == ((), ())


def test_a_block_that_has_not_ended_is_not_told() -> None:
    assert counts(blocks(requests(every(5, 7, 10, 14, 20, 21)), until=119.0)) == {100.0: (7, 0)}


def test_a_first_error_is_an_error() -> None:
    """A series that appears has no sample before, and yet its counter began at zero."""
    found = blocks(requests(every(5, 10, 20, 30)), requests({110.0: 4.0}, status=503))
    assert counts(found) == {100.0: (24, 4)}


def test_what_a_client_is_told_to_have_done_wrong_is_an_error_too() -> None:
    found = blocks(requests(every(5, 10, 20, 30)), requests(every(5, 0, 1, 3), status=400))
    assert counts(found) == {100.0: (23, 3)}


def test_a_restart_begins_at_zero_in_all_counters() -> None:
    """The errors grew from 2 to 5 by their values, and to 5 from zero in truth."""
    found = blocks(requests(every(5, 90, 100, 30)), requests(every(5, 2, 2, 5), status=500))
    assert counts(found) == {100.0: (10 + 35, 5)}


def test_a_restart_that_loses_a_series_is_a_restart() -> None:
    found = blocks(requests(every(5, 90, 100, 30)), requests(every(5, 2, 2), status=500))
    assert counts(found) == {100.0: (10 + 30, 0)}


def test_a_target_that_was_down_has_no_data_for_that_time() -> None:
    found = blocks(
        requests({100.0: 0, 105.0: 5, 110.0: 10, 135.0: 90, 140.0: 95, 145.0: 99, 150.0: 103})
    )
    assert counts(found) == {100.0: (10, 0), 140.0: (8, 0)}


def test_a_block_that_is_not_scraped_to_its_end_is_no_data() -> None:
    """Else a server that went away would seem to have got fewer requests than its share."""
    assert counts(blocks(requests({100.0: 0, 105.0: 5, 110.0: 10, 115.0: 15}))) == {100.0: (10, 0)}
    later = requests({100.0: 0, 105.0: 5, 110.0: 10, 115.0: 15, 135.0: 40, 140.0: 50})
    assert counts(blocks(later)) == {100.0: (10, 0)}


def test_a_partial_scrape_is_no_data() -> None:
    whole = every(5, 10, 20, 30, 40, 50)
    errors = every(5, 1, 1, 1)  # Gone at 115 though nothing was restarted.
    assert counts(blocks(requests(whole), requests(errors, status=500))) == {100.0: (20, 0)}


def test_a_value_that_is_no_number_is_no_sample() -> None:
    found = blocks(requests({100.0: 1, 105.0: math.nan, 110.0: 9, 115.0: math.inf, 120.0: -1}))
    assert counts(found) == {100.0: (8, 0)}


def test_servers_of_an_arm_add_up_and_one_that_is_new_counts_from_its_second_scrape() -> None:
    found = blocks(
        requests(every(5, 0, 10, 20, 30, 40)),
        requests(every(5, 500, 506, start=115.0), pod="b"),
    )
    # Its first value may be of an hour: the block of its first scrape has the other's alone.
    assert counts(found) == {100.0: (20, 0), 110.0: (20, 0)}


def test_arms_are_apart() -> None:
    series = (requests(every(5, 0, 1, 2)), requests(every(5, 0, 7, 9), arm="stable"))
    _, found = measured_blocks(series, block_s=BLOCK, until=1000.0)
    assert {(b.arm, b.requests) for b in found} == {("canary", 2), ("stable", 9)}


def test_latencies_are_told_by_bucket() -> None:
    series = (
        requests(every(5, 0, 10, 20)),
        bucket(every(5, 0, 6, 11), le="0.001"),
        bucket(every(5, 0, 9, 18), le="0.01"),
        bucket(every(5, 0, 10, 20), le="+Inf"),
    )
    edges, (block,) = measured_blocks(series, block_s=BLOCK, until=1000.0)
    assert edges == (1000.0, 10_000.0)
    assert block.latency_counts == (11, 7, 2)


def test_latencies_that_are_not_of_all_requests_are_not_measured() -> None:
    series = (
        requests(every(5, 0, 10, 20)),
        bucket(every(5, 0, 6, 11), le="0.001"),
        bucket(every(5, 0, 6, 11), le="+Inf"),
    )
    _, (block,) = measured_blocks(series, block_s=BLOCK, until=1000.0)
    assert (block.requests, block.latency_counts) == (20, None)
    (block,) = blocks(requests(every(5, 0, 10, 20))).values()
    assert block.latency_counts is None
