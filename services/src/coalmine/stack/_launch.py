"""Run a program that does not outlive the process that started it: `_launch.py PARENT COMMAND...`.

The kernel kills it (PR_SET_PDEATHSIG) when its parent dies, however the parent dies. This is a
script between the two, not a function run after the fork (`preexec_fn`), which is unsafe where
threads run; it needs nothing but the standard library, to start in milliseconds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Bind this process to its parent, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit("the process that started this is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
