"""The command line: `coalmine --help`.

Each command imports what it needs when it runs: help, and the commands that only talk to a running
stack, answer at once. A mistake of the user is one line on stderr and exit status 1, or 2 where
what was given cannot be used.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command that `sys.argv` names, and exit with its status."""
    # Read when numpy is imported. A service that runs alone works on small matrices only.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from coalmine.cli._app import app
    from coalmine.cli._errors import explain

    try:
        app(prog_name="coalmine")
    except Exception as error:
        print(f"coalmine: {explain(error)}", file=sys.stderr)
        sys.exit(getattr(error, "status", 1))
