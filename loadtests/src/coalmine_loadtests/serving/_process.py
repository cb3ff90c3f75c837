"""A server pinned to one core: started, accounted for with all its children, and stopped."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Memory", "PinnedProcess"]

_STOP_S = 15.0
_WRONG = re.compile("error|exception|failed|not found|timed out", re.I)


@dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes, summed over processes: resident, and with shared pages counted once."""

    rss_mb: float
    pss_mb: float


class PinnedProcess:
    """One command on one core, its output in `log`; a context manager that ends the whole tree."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        core: int,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        self._known: dict[int, psutil.Process] = {}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                cwd=log.parent,
                start_new_session=True,
            )

    def __enter__(self) -> PinnedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def ended(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def told(self) -> str:
        """What it printed about errors at the end, else the end of everything that it printed."""
        lines = self._log.read_text("utf-8", errors="replace").splitlines()
        wrong = [line[:400] for line in lines if _WRONG.search(line)]
        return "\n".join(wrong[-5:] or lines[-10:]).strip()

    def cpu_seconds(self) -> float:
        """User and system time of the tree so far."""
        total = 0.0
        for process in self._tree():
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue  # it ended just now
            total += times.user + times.system
        return total

    def memory(self) -> Memory:
        """Of the tree, now."""
        rss = pss = 0
        for process in self._tree():
            try:
                of_process = process.memory_full_info()
            except psutil.Error:
                continue
            rss, pss = rss + of_process.rss, pss + of_process.pss
        return Memory(rss / 1e6, pss / 1e6)

    def stop(self) -> None:
        """SIGTERM, some patience, then SIGKILL for what is left of the tree."""
        tree = self._tree()
        if self.ended is None:
            self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            pass
        for process in tree:
            try:
                process.kill()
            except psutil.Error:
                pass  # gone, as it should be
        self._process.wait()
        psutil.wait_procs(tree, timeout=_STOP_S)

    def _tree(self) -> list[psutil.Process]:
        """The command and its descendants, those included whose parent has ended since."""
        try:
            root = psutil.Process(self._process.pid)
            found = [root, *root.children(recursive=True)]
        except psutil.Error:
            found = []
        self._known.update({process.pid: process for process in found})
        self._known = {pid: each for pid, each in self._known.items() if each.is_running()}
        return list(self._known.values())
