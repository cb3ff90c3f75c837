"""One process of `--processes N`: the server that runs alone otherwise, bound to its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["LINK_VARIABLE", "PARENT_VARIABLE", "main"]

#: `INDEX:DESCRIPTOR` of the socket to the supervisor, inherited; and the supervisor's id.
LINK_VARIABLE = "COALMINE_SERVE_LINK"
PARENT_VARIABLE = "COALMINE_SERVE_PARENT"
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve what the environment says; the exit status."""
    # The kernel kills this process when its parent dies, however the parent dies.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ.pop(PARENT_VARIABLE)):  # it died before the line above
        return 1
    from coalmine.serving._errors import StartupError
    from coalmine.serving._options import OPTIONS_VARIABLE, ServeOptions
    from coalmine.serving._serve import run_one

    try:
        return run_one(ServeOptions.from_json(os.environ[OPTIONS_VARIABLE]))
    except StartupError as error:
        print(f"coalmine serve: {error}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
