"""The records of a server: one spool per model, which all versions of the model share."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from coalmine.records import RecordEmitter, RecordsError
from coalmine.serving._errors import StartupError
from coalmine.serving._options import ServeOptions
from coalmine.serving._servable import Servable
from coalmine.sources import redacted

__all__ = ["Recording"]


class Recording:
    """Gives each servable its emitter. A spool is open from its model's first load to the end."""

    def __init__(self, options: ServeOptions, *, spool_each: bool) -> None:
        if options.records is not None and options.spool is None:
            raise StartupError(
                "records need a spool: a directory to keep them in until they are sent"
            )
        self._options = options
        self._spool_each = spool_each
        self._lock = threading.Lock()
        self._emitters: dict[str, RecordEmitter] = {}
        self._idle: list[RecordEmitter] = []

    def emitter(self, servable: Servable) -> RecordEmitter | None:
        """The emitter of one version; None without records. StartupError if it has no record."""
        if self._options.records is None:
            return None
        try:
            with self._lock:
                first = self._emitters.get(servable.name)
                if first is None:
                    first = self._emitters[servable.name] = self._open(servable)
                    return first
            return first.of_version(card=servable.card, model_version=servable.version)
        except (RecordsError, OSError, ValueError) as error:
            raise StartupError(f"records to {redacted(self._options.records)}: {error}") from error

    async def start(self) -> None:
        """Start shipping what has been opened."""
        while self._idle:
            await self._idle.pop().start()

    async def close(self) -> None:
        """Ship what is left, for a second, and keep the rest on disk."""
        await asyncio.gather(*(emitter.close(timeout=1.0) for emitter in self._emitters.values()))

    def _open(self, servable: Servable) -> RecordEmitter:
        options = self._options
        assert options.spool is not None
        assert options.records is not None
        emitter = RecordEmitter(
            self._directory(options.spool, servable.name),
            options.records,
            card=servable.card,
            model_version=servable.version,
            arm=options.arm,
            max_bytes=options.max_spool,
        )
        self._idle.append(emitter)
        return emitter

    def _directory(self, spool: Path, name: str) -> Path:
        return spool / name if self._spool_each else spool
