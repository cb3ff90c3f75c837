"""The interpreter, told what a server knows: about its objects, and about its threads."""

from __future__ import annotations

import gc
import sys

__all__ = ["settle"]

#: A request makes some dozens of objects and no cycles: to look for those every 700 objects, as is
#: the default, costs more than what is found.
_THRESHOLDS = (20_000, 20, 20)
#: Seconds for which the shipper of records may hold the interpreter while the event loop waits for
#: it: the default, 5 ms, is ten requests' time.
_TURN = 0.5e-3


def settle() -> None:
    """Call once everything is loaded: what is alive now lives for ever, and is not looked at again.

    Otherwise a collection of all objects, modules and models among them, holds up the requests of
    that moment for some ten milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    sys.setswitchinterval(_TURN)
