"""Keeps a download inside its directory, whatever names the other side gives its files.

Object keys and archive members are chosen by whoever fills a bucket. The libraries join them to a
path; a key like `../../.bashrc` would land there. Python tells an audit hook of every file that is
about to be opened, made, moved or removed: one that is not below the directory is refused.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

__all__ = ["OutsideError", "confine"]

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Event to the positions of what it changes: a path, and the directory it starts from (-1: here).
_CHANGES = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
}


class OutsideError(PermissionError):
    """A file outside of the directory."""


def confine(*roots: Path) -> None:
    """From now on this process, and those it forks, change files below `roots` only. For good."""
    allowed = tuple(os.path.realpath(root) for root in roots)

    def check(path: Any, base: int = -1) -> None:
        if isinstance(path, int) or path is None:
            return
        place = os.fsdecode(path)
        if base != -1:
            place = os.path.join(os.readlink(f"/proc/self/fd/{base}"), place)
        place = os.path.abspath(place)
        # The last part may be a link that is itself replaced; what it is in must be ours.
        real = os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))
        for candidate in (real, os.path.realpath(place)):
            inside = any(
                candidate == root or candidate.startswith(root + os.sep) for root in allowed
            )
            if not inside and candidate != os.devnull:
                raise OutsideError(f"refused: {place} is outside of the cache")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            name, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING:
                check(name)
        elif event in _CHANGES:
            for path, base in _CHANGES[event]:
                check(arguments[path], -1 if base is None else arguments[base])

    sys.addaudithook(hook)
