"""The children of a stack, by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from coalmine.clock import Clock
from coalmine.stack._child import Child, ChildSpec
from coalmine.stack._state import Part

__all__ = ["Supervisor"]


class Supervisor:
    """Starts and stops children; each keeps itself running in between.

    `changed` is called after every start and end of a process.
    """

    def __init__(self, *, clock: Clock, changed: Callable[[], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._children: dict[str, Child] = {}

    def start(self, spec: ChildSpec) -> None:
        """Start a child, which must not run yet; it is started again whenever it ends."""
        if spec.name in self._children:
            raise ValueError(f"{spec.name} is already supervised")
        self._children[spec.name] = Child(spec, clock=self._clock, changed=self._changed)

    def spec_of(self, name: str) -> ChildSpec | None:
        """What a child runs; None if there is none of this name."""
        child = self._children.get(name)
        return None if child is None else child.spec

    async def stop(self, names: Iterable[str], *, grace: float) -> None:
        """Stop some children together; names that do not run are passed over."""
        children = [self._children[name] for name in names if name in self._children]
        await asyncio.gather(*(child.stop(grace=grace) for child in children))
        for child in children:
            del self._children[child.spec.name]
        self._changed()

    def pid_of(self, name: str) -> int | None:
        """The process of a child; None if there is none now."""
        child = self._children.get(name)
        return None if child is None else child.part.pid

    def kill(self, name: str, pid: int) -> None:
        """End a child's process, if it still is this one, at once: it is started again."""
        child = self._children.get(name)
        if child is not None:
            child.kill(pid)

    def names(self) -> tuple[str, ...]:
        """The children, in the order they were started."""
        return tuple(self._children)

    def parts(self) -> tuple[Part, ...]:
        """How each child stands now."""
        return tuple(child.part for child in self._children.values())
