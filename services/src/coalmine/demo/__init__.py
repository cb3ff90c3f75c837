"""The demonstration, and end-to-end test: a fleet, a scenario, and the loop's reaction.

`run_demo` starts the local stack, streams the fleet's traffic through the gateway, lets something
happen in the world, waits for what the loop must do about it, and writes a report. It looks at the
stack only from outside, as a client and over the HTTP APIs.
"""

from coalmine.demo._demo import run_demo
from coalmine.demo._options import DemoOptions, Scenario

__all__ = ["DemoOptions", "Scenario", "run_demo"]
