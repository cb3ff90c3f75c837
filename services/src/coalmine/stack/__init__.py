"""The local stack: one model service, all its parts, on one machine.

`Stack` runs and supervises the processes; `Surroundings` and `build_service` put the control side's
apps together, for all in one process or for each alone. State lives in one directory, and a second
`Stack` on it continues from there.
"""

from __future__ import annotations

from coalmine.stack._arms import DesiredArms, LocalArmHost, read_arms
from coalmine.stack._errors import (
    AlreadyRunningError,
    NotRunningError,
    PartFailedError,
    PortsTakenError,
    StackError,
)
from coalmine.stack._ports import DEFAULT_PORT, Ports
from coalmine.stack._rescue import abort_directly
from coalmine.stack._services import SERVICES, Surroundings, build_service
from coalmine.stack._stack import Stack, default_state
from coalmine.stack._state import Part, Running, StateDirectory, read_running

__all__ = [
    "DEFAULT_PORT",
    "SERVICES",
    "AlreadyRunningError",
    "DesiredArms",
    "LocalArmHost",
    "NotRunningError",
    "Part",
    "PartFailedError",
    "Ports",
    "PortsTakenError",
    "Running",
    "Stack",
    "StackError",
    "StateDirectory",
    "Surroundings",
    "abort_directly",
    "build_service",
    "default_state",
    "read_arms",
    "read_running",
]
