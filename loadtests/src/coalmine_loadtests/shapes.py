"""A locust load shape: one day of a fleet, compressed.

    locust -f .../users.py,.../shapes.py --host URL --headless --day-seconds 120 --peak-users 50

Vehicles upload when they have been driven: little at night, a rush in the morning, a plateau at
noon, a higher rush in the evening. After one day the test ends.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

from locust import LoadTestShape, events

from coalmine_loadtests._day import users_at

__all__ = ["FleetDay"]


def _add_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("fleet day")
    group.add_argument("--day-seconds", type=float, default=300.0, help="length of the day")
    group.add_argument("--peak-users", type=int, default=50, help="vehicles in the evening rush")


# Locust gives its hooks no types.
_parser_hook: Any = events.init_command_line_parser
_parser_hook.add_listener(_add_options)


class FleetDay(LoadTestShape):
    """Users over one compressed day."""

    def tick(self) -> tuple[int, float] | None:
        """Users and spawn rate now; None when the day is over."""
        runner: Any = self.runner
        options = runner.environment.parsed_options
        share = (time.perf_counter() - self.start_time) / options.day_seconds
        if share >= 1:
            return None
        users = users_at(24 * share, peak=options.peak_users)
        return users, float(options.peak_users)
