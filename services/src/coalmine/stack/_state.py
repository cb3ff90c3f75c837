"""The state directory: one place for all a stack keeps, locked by the `up` that runs on it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from coalmine.stack._errors import AlreadyRunningError, NotRunningError, StackError

__all__ = ["Part", "Running", "StateDirectory", "read_running"]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a running stack."""

    name: str
    pid: int | None
    """None while it is being restarted."""

    url: str
    restarts: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """What `up.json` says of a running stack."""

    service: str
    file: str
    pid: int
    started: float
    """Seconds since the epoch, UTC."""

    parts: tuple[Part, ...]
    services: tuple[str, ...] = ()
    """The apps of the control process."""

    def url(self, part: str) -> str:
        """The address of a part; `StackError` if the stack has none of this name."""
        for each in self.parts:
            if each.name == part:
                return each.url
        raise StackError(f"the stack has no part named {part}")


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """Where each part keeps what must outlive it."""

    root: Path

    @property
    def arms(self) -> Path:
        """The arms that should run, as the rollout controller wants them."""
        return self.root / "arms.json"

    @property
    def envoy(self) -> Path:
        """Envoy's bootstrap and routes."""
        return self.root / "envoy"

    @property
    def logs(self) -> Path:
        """What the parts print, a file each."""
        return self.root / "logs"

    @property
    def models(self) -> Path:
        """Model directories by version, as the registry lays them out."""
        return self.root / "models"

    def spool(self, arm: str) -> Path:
        """Records of an arm that the collector does not have yet."""
        return self.root / "spool" / arm

    def log_of(self, part: str) -> Path:
        """The log file of a part."""
        return self.logs / f"{part}.log"

    def database(self, name: str) -> Path:
        """A part's SQLite file."""
        return self.root / f"{name}.db"

    def create(self) -> None:
        """Make the directories that parts expect to find."""
        for directory in (self.root, self.envoy, self.logs, self.models, self.root / "spool"):
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StackError(f"--state {self.root}: {error.strerror}: {directory}") from error

    def write_running(self, running: Running) -> None:
        """Say what runs, for `coalmine status` and for a second `up`."""
        write_json(self.root / "up.json", asdict(running))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process; `AlreadyRunningError` if another one does.

        The lock goes with the process, however it ends.
        """
        self.create()
        with (self.root / "up.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AlreadyRunningError(self.root, _read(self.root)) from error
            try:
                yield
            finally:
                (self.root / "up.json").unlink(missing_ok=True)


def read_running(root: Path) -> Running:
    """What runs on a state directory; `NotRunningError` if nothing does."""
    try:
        with (root / "up.lock").open("rb") as lock:
            # A shared lock can be had exactly when no `up` holds its exclusive one.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError as error:
        raise NotRunningError(root) from error
    except BlockingIOError:
        return _read(root)
    raise NotRunningError(root)


def _read(root: Path) -> Running:
    try:
        content = json.loads((root / "up.json").read_bytes())
        parts = tuple(Part(**part) for part in content.pop("parts"))
        services = tuple(content.pop("services"))
        return Running(**content, parts=parts, services=services)
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        raise StackError(f"the stack on {root} is starting or stopping; try again") from error


def write_json(path: Path, content: object) -> None:
    """Replace a JSON file whole and durably: a reader sees the old content or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
