"""alibi-detect's detectors as monitors: the same records, metrics and incidents as Coalmine's own.

`check` says what a service file asks for that cannot be, before anything runs; `create_alibi_app`
is the service. Everything random is seeded, state is bounded, and a restart changes no verdict.
"""

from __future__ import annotations

from coalmine_alibi._app import create_alibi_app
from coalmine_alibi._check import check
from coalmine_alibi._errors import AlibiConfigError, AlibiError

__all__ = ["AlibiConfigError", "AlibiError", "check", "create_alibi_app"]
