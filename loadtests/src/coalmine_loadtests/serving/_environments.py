"""The peers' environments: made on demand from their locks, one each, and kept.

They lie in `.bench/` of the checkout, or where COALMINE_BENCH_DIR says.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

from coalmine_loadtests.serving._errors import AbsentError, ServingBenchError

__all__ = ["BENCH_DIR", "PEERS", "Environments", "repository"]

BENCH_DIR = "COALMINE_BENCH_DIR"
_INSTALL_S = 900
_VERSIONS = """
import importlib.metadata as m, json, platform, sys
print(json.dumps({"python": platform.python_version()} | {n: m.version(n) for n in sys.argv[1:]}))
"""


def repository() -> Path:
    """The checkout; the peers' locks and servers are in no wheel."""
    root = Path(__file__).resolve().parents[4]
    if not (root / "requirements").is_dir():
        raise ServingBenchError(
            "`coalmine bench serving` needs a checkout of the repository, installed by `make "
            "setup`: the locks of the peers' environments are in no wheel"
        )
    return root


#: Our short server for each peer.
PEERS = Path("loadtests", "peers")


class Environments:
    """Interpreters by the name of a lock; `pythons` are taken as they are."""

    def __init__(
        self,
        *,
        directory: Path | None = None,
        pythons: Mapping[str, Path] | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        configured = os.environ.get(BENCH_DIR)
        self._directory = directory or (Path(configured) if configured else None)
        self._pythons = dict(pythons or {})
        self._tell = tell

    def python(self, lock: str | None) -> Path:
        """The interpreter, installed if need be; `AbsentError` if that fails. None: this one."""
        if lock is None:
            return Path(sys.executable)
        if lock not in self._pythons:
            self._pythons[lock] = self._install(lock)
        return self._pythons[lock]

    def versions(self, lock: str | None, distributions: tuple[str, ...]) -> dict[str, str]:
        """Versions of the interpreter and of `distributions` in that environment."""
        command = [str(self.python(lock)), "-c", _VERSIONS, *distributions]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise AbsentError(f"the environment {lock!r} is broken: {done.stderr.strip()[-300:]}")
        versions: dict[str, str] = orjson.loads(done.stdout)
        return versions

    def _install(self, lock: str) -> Path:
        root = repository()
        pins = root / "requirements" / f"bench-{lock}.txt"
        if not pins.is_file():
            raise AbsentError(f"{pins.relative_to(root)} is missing: run `make lock`")
        home = (self._directory or root / ".bench").absolute() / lock
        python, stamp = home / "bin" / "python", home / ".lock"
        digest = hashlib.sha256(pins.read_bytes()).hexdigest()
        if python.exists() and stamp.exists() and stamp.read_text("ascii") == digest:
            return python
        self._tell(f"installing {lock} ({pins.relative_to(root)}) ...")
        uv = _uv(root)
        target = {"VIRTUAL_ENV": str(home)}
        _call([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(home)])
        _call([uv, "pip", "sync", "--quiet", "--require-hashes", str(pins)], target)
        stamp.write_text(digest, "ascii")
        return python


def _uv(root: Path) -> str:
    own = root / ".tools" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise AbsentError("uv is missing: run `make setup`")
    return found


def _call(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_INSTALL_S,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        raise AbsentError(f"`{' '.join(command[:3])}` took more than {_INSTALL_S} s") from None
    if done.returncode != 0:
        raise AbsentError(f"`{' '.join(command[:3])}` failed: {done.stderr.strip()[-600:]}")
