"""The module that pyvoy's Envoy imports: loads the model, and stops the process with grace."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

from coalmine.serving._app import ServingApp, create_asgi
from coalmine.serving._errors import StartupError
from coalmine.serving._interpreter import settle
from coalmine.serving._logging import configure_logging
from coalmine.serving._member import Link
from coalmine.serving._options import OPTIONS_VARIABLE, ServeOptions
from coalmine.serving._pyvoy import STOP_SIGNALS

__all__ = ["app"]


def _start() -> ServingApp:
    # Set for Envoy to find this Python; a child process of ours has no use for them.
    for name in ("LD_PRELOAD", "PYTHONHOME"):
        os.environ.pop(name, None)
    configure_logging()
    made: list[ServingApp] = []
    threading.Thread(target=_stop_on_signal, args=(made,), name="signals", daemon=True).start()
    try:
        options = ServeOptions.from_json(os.environ[OPTIONS_VARIABLE])
        made.append(create_asgi(options, link=Link.inherited()))
    except StartupError as error:
        _exit(f"coalmine serve: {error}")
    except Exception:
        logging.getLogger("coalmine.serving").exception("cannot start")
        _exit("coalmine serve: cannot start")
    settle()
    return made[0]


def _exit(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    os._exit(1)  # Envoy's own way out prints its whole configuration


def _stop_on_signal(made: list[ServingApp]) -> None:
    signal.sigwait(STOP_SIGNALS)
    if not made:
        os._exit(0)
    drained = threading.Event()
    made[0].drain(done=drained.set)
    drained.wait()
    # Unblocked in this thread, the signal reaches the handler that Envoy installed.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.kill(os.getpid(), signal.SIGTERM)


app = _start()
