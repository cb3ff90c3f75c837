"""Files that only the newest of several writers replaces, wherever the others were interrupted.

A lease alone does not keep two writers apart: one that was stopped between asking for its lease and
its write, for longer than the lease lives, goes on with that write. So every owner of the lease has
a token, larger than those before, and claims the files with it before anything else.

No lock is held, since a stopped process would hold it for ever. A writer of token t

1. writes a temporary file that bears t,
2. looks whether a larger token has claimed, and if so stops,
3. renames the temporary file.

A claim of T (1) leaves its mark, then (2) removes the temporary files of smaller tokens. A rename
that still succeeds after that had its temporary file made after the removal, so after the mark was
left: then its writer has seen the mark in its second step, and did not get to the third.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

__all__ = ["Fence", "FencedOff"]

_MARK = ".claimed"
_TEMPORARY = ".tmp"
#: Marks that are kept below the newest: a writer that reads the directory while one is removed and
#: another is made must not miss both.
_KEPT = 16


class FencedOff(Exception):
    """Somebody with a larger token has claimed the files: nothing was written."""


class Fence:
    """The claims on some files; `directory` is for it alone, on the file system of the files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def claim(self, token: int) -> None:
        """Refuse all writes of smaller tokens from here on; `FencedOff` if a larger one claimed.

        Claiming again is harmless.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / f"{token}{_MARK}").touch()
        self.check(token)
        for left in self._directory.glob(f"*{_TEMPORARY}"):
            if _token(left) < token:
                left.unlink(missing_ok=True)
        for mark in self._directory.glob(f"*{_MARK}"):
            if _token(mark) < token - _KEPT:
                mark.unlink(missing_ok=True)

    def replace(self, path: Path, content: bytes, *, token: int) -> None:
        """Replace a file so that a reader sees the old bytes or the new ones, also after a crash.

        Durable when this returns. `FencedOff` if a larger token has claimed: then it is as it was.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        temporary = self._directory / f"{token}.{uuid.uuid4().hex}{_TEMPORARY}"
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self.check(token)
            temporary.replace(path)
        except FileNotFoundError:
            self.check(token)
            raise  # It was something else that is missing: the file's own directory.
        finally:
            temporary.unlink(missing_ok=True)

    def check(self, token: int) -> None:
        """`FencedOff` if a larger token has claimed. It says nothing of the next moment."""
        newest = max(map(_token, self._directory.glob(f"*{_MARK}")), default=0)
        if newest > token:
            raise FencedOff(f"controller {newest} has taken over from {token}; nothing is written")


def _token(path: Path) -> int:
    return int(path.name.partition(".")[0])
