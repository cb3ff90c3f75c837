"""The models of one server: loaded, replaced and unloaded without a failed request.

A new version is located, loaded and warmed up beside the old one, in a thread. Then the two change
places in one assignment, and the old one is closed when the calls it has begun are answered. What
goes wrong before that leaves the old one serving, and is kept as the model's `reason`.

`prepare`, `commit` and `abort` are apart so that several processes can change models together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from coalmine.serving._catalogue import Catalogue, Offer, content_digest, fingerprint, local_path
from coalmine.serving._errors import (
    ModelLoadError,
    ModelNotReadyError,
    StartupError,
    UnknownModelError,
)
from coalmine.serving._loader import Loader
from coalmine.serving._servable import Servable
from coalmine.serving._versions import Ledger

__all__ = ["ModelState", "Plan", "Prepared", "Repository", "Slot"]

_log = logging.getLogger("coalmine.serving")
_RETIRE_POLL = 0.02


class ModelState(StrEnum):
    """What a model does, in the words of the model repository extension."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Slot:
    """What is known of one model; a transition makes a new one."""

    name: str
    state: ModelState = ModelState.UNAVAILABLE
    reason: str = "not loaded"
    """Why it is not ready; of a model that is ready, why its last load failed."""

    servable: Servable | None = None
    plan: Plan | None = None
    """What is served, or was."""

    failures: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Which content to load as which version."""

    name: str | None
    """None: the model's own."""

    uri: str
    version: str | None
    digest: str | None
    content: str | None = None
    """Where what was fetched from `uri` is on this machine; None: the URI says it."""

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A servable that waits for its turn; `servable` is None if what is served is the same."""

    plan: Plan
    servable: Servable | None


class Repository:
    """Named models. `get` is for the hot path; the rest is called on the event loop too."""

    def __init__(
        self,
        catalogue: Catalogue,
        loader: Loader,
        *,
        ledger: Ledger,
        version: str | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._loader = loader
        self._version = version
        self._ledger = ledger
        self._serving: dict[str, Servable] = {}
        self._slots: dict[str, Slot] = {}
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, name: str, version: str | None) -> Servable:
        """What serves this model. UnknownModelError; ModelNotReadyError if it is not loaded."""
        servable = self._serving.get(name)
        if servable is None or (version and version != servable.version):
            raise self._absent(name, version, servable)
        return servable

    @property
    def only(self) -> Servable | None:
        """The model, if just one is served."""
        return next(iter(self._serving.values())) if len(self._serving) == 1 else None

    def serving(self) -> list[Servable]:
        """All that is served now."""
        return list(self._serving.values())

    def slots(self) -> list[Slot]:
        """All models that are known here, by name."""
        return [self._slots[name] for name in sorted(self._slots)]

    def slot(self, name: str) -> Slot:
        """One model; UnknownModelError names what is known."""
        if name not in self._slots:
            raise self._absent(name, None, None)
        return self._slots[name]

    def open(self, plans: list[Plan] | None = None) -> None:
        """Load what is planned, or all that is offered, before anything is served.

        Blocks; StartupError.
        """
        if plans is not None:
            self._follow(plans)
            return
        offers = self._catalogue.offers()
        if len(offers) == 1 and offers[0].name is None:
            plan = self._named(self._plan(offers[0]))
            self.commit(self.prepare_now(plan))
            (name,) = self._serving
            self._catalogue.call_it(name)
            self._ledger.version(name, declared=plan.version, digest=plan.digest)
            return
        for offer in offers:
            self._check_alone(offer, offers)
            try:
                self.commit(self.prepare_now(self._named(self._plan(offer))))
            except StartupError as error:
                raise StartupError(f"model {offer.name}: {error}") from error

    async def load(self, name: str) -> None:
        """Load a model, or its newest version. UnknownModelError; ModelLoadError says why not."""
        # Once begun it goes on to its end: a client that does not wait must not leave half of it.
        await asyncio.shield(self._spawn(self._load(name)))

    async def _load(self, name: str) -> None:
        async with self._changing:
            plan = self._named(await self.find(name))
            self.commit(await self.prepare(plan))

    async def unload(self, name: str) -> None:
        """Stop serving a model; calls that it has begun are answered. UnknownModelError."""
        async with self._changing:
            self.drop(name)

    async def find(self, name: str) -> Plan:
        """What its source offers for a name now; the error is kept as the model's reason."""
        try:
            return await asyncio.to_thread(self._find, name)
        except UnknownModelError:
            raise
        except Exception as error:
            self.fail(name, _reason(error))
            raise ModelLoadError(_failed(name) + _reason(error)) from error

    async def prepare(self, plan: Plan) -> Prepared:
        """Load and warm up beside what serves; ModelLoadError, kept as the model's reason."""
        assert plan.name is not None
        before = self._slots.get(plan.name, Slot(plan.name))
        if before.servable is None:
            self._set(replace(before, state=ModelState.LOADING, reason=""))
        try:
            prepared = await asyncio.to_thread(self.prepare_now, plan)
            await self._loader.start()
            return prepared
        except Exception as error:
            reason = f"version {plan.version}: {_reason(error)}"
            self.fail(plan.name, reason)
            raise ModelLoadError(_failed(plan.name) + reason) from error

    def prepare_now(self, plan: Plan) -> Prepared:
        """The same in this thread, without keeping the reason."""
        slot = self._slots.get(plan.name or "")
        if slot is not None and slot.servable is not None and slot.plan is not None:
            same = plan.digest is not None and plan.digest == slot.plan.digest
            if same and plan.version == slot.plan.version:
                return Prepared(plan, None)
        assert plan.version is not None
        offer = Offer(plan.name, plan.content or plan.uri, plan.version)
        return Prepared(plan, self._loader.load(offer, version=plan.version))

    def commit(self, prepared: Prepared) -> None:
        """Serve what is prepared; the old version is closed when its calls are answered."""
        servable = prepared.servable
        if servable is None:
            assert prepared.plan.name is not None
            self._set(replace(self._slots[prepared.plan.name], reason=""))
            return
        name = servable.name
        before = self._slots.get(name, Slot(name))
        plan = replace(prepared.plan, name=name, version=servable.version)
        self._serving[name] = servable
        self._set(Slot(name, ModelState.READY, "", servable, plan, before.failures))
        self._retire(before.servable)
        _log.info("%s version %s (%s) is ready", name, servable.version, servable.arm)

    def abort(self, prepared: Prepared) -> None:
        """Close what was prepared: another process could not load it."""
        if prepared.servable is not None:
            prepared.servable.close()

    def note(self, name: str, reason: str) -> None:
        """Keep why another process could not load a model, in the words that it keeps."""
        slot = self._slots.get(name, Slot(name))
        self._set(replace(slot, reason=reason.removeprefix(_failed(name))))

    def fail(self, name: str, reason: str) -> None:
        """Keep why a load failed; what serves goes on."""
        slot = self._slots.get(name, Slot(name))
        state = ModelState.READY if slot.servable else ModelState.UNAVAILABLE
        self._set(replace(slot, state=state, reason=reason, failures=slot.failures + 1))
        _log.error("cannot load %s: %s", name, reason)

    def drop(self, name: str) -> None:
        """Unload at once."""
        slot = self.slot(name)
        self._serving.pop(name, None)
        self._set(replace(slot, state=ModelState.UNAVAILABLE, reason="unloaded", servable=None))
        self._retire(slot.servable)
        _log.info("%s is unloaded", name)

    async def discover(self) -> None:
        """Note models that came since the start; nothing is loaded."""
        for offer in await asyncio.to_thread(self._catalogue.offers):
            if offer.name is not None and offer.name not in self._slots:
                self._set(Slot(offer.name))

    def look(self) -> dict[str, object]:
        """What is offered now, by name, with what differs when its content does. Blocks.

        What has no content to compare, a class of the user's, is left out.
        """
        found = {offer.name: self._glance(offer) for offer in self._catalogue.offers()}
        return {name: seen for name, seen in found.items() if name and seen is not None}

    def close(self) -> None:
        """Stop every model at once."""
        for task in self._tasks:
            task.cancel()
        for servable in self._serving.values():
            servable.close()

    def _follow(self, plans: list[Plan]) -> None:
        """Load what other processes serve, if it is still there; else what is there instead."""
        if not self._catalogue.holds_several and plans and plans[0].name is not None:
            self._catalogue.call_it(plans[0].name)
        declared = {offer.uri: offer.version for offer in self._catalogue.offers()}
        for plan in plans:
            if plan.content is not None and Path(plan.content).exists():
                self.commit(self.prepare_now(plan))  # fetched content never changes
                continue
            found = self._plan(Offer(plan.name, plan.uri, declared.get(plan.uri)))
            if found.digest != plan.digest:
                plan = self._named(found)
            self.commit(self.prepare_now(plan))

    def _set(self, slot: Slot) -> None:
        self._slots[slot.name] = slot

    def _check_alone(self, offer: Offer, offers: list[Offer]) -> None:
        """Two entries of a directory may have one name, `d` and `d.onnx`: neither is meant more."""
        uris = [each.uri for each in offers if each.name == offer.name]
        if len(uris) > 1:
            raise ModelLoadError(f"{' and '.join(uris)} are both called {offer.name!r}")

    def _find(self, name: str) -> Plan:
        offers = self._catalogue.offers()
        for offer in offers:
            if offer.name == name:
                self._check_alone(offer, offers)
                path = local_path(offer.uri)
                if path is not None and not path.exists():
                    raise ModelLoadError(f"{offer.uri} is gone")
                return self._plan(offer)
        if name in self._slots:
            raise ModelLoadError(f"the source of {name} is gone")
        raise self._absent(name, None, None)

    def _glance(self, offer: Offer) -> object:
        path = local_path(offer.uri)
        try:
            if path is not None:
                return fingerprint(path)
            plan = self._plan(offer)
            return plan.digest and (plan.digest, plan.version)
        except (OSError, StartupError) as error:
            return str(error)  # a load will fail for this reason, and keep it

    def _plan(self, offer: Offer) -> Plan:
        place = self._catalogue.place(offer)
        path = place.path
        digest = content_digest(path) if path is not None and path.exists() else None
        content = place.uri if place.uri != offer.uri else None
        return Plan(place.name, offer.uri, self._version or place.version, digest, content)

    def _named(self, plan: Plan) -> Plan:
        """The plan with its version's name."""
        version = self._ledger.version(plan.name or "", declared=plan.version, digest=plan.digest)
        return replace(plan, version=version)

    def _retire(self, servable: Servable | None) -> None:
        if servable is None:
            return
        self._spawn(_close_when_idle(servable))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                task.exception()  # told by whoever waits for it; nobody may

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    def _absent(self, name: str, version: str | None, servable: Servable | None) -> Exception:
        if servable is not None:
            return UnknownModelError(
                f"unknown version {version!r:.100} of {name}; served here: {servable.version}"
            )
        slot = self._slots.get(name)
        if slot is None:
            known = ", ".join(sorted(self._slots)) or "none"
            return UnknownModelError(f"unknown model {name!r:.100}; served here: {known}")
        return ModelNotReadyError(f"model {name} is not ready: {slot.reason or slot.state.lower()}")


async def _close_when_idle(servable: Servable) -> None:
    while not servable.is_idle:
        await asyncio.sleep(_RETIRE_POLL)
    await asyncio.to_thread(servable.close)


def _failed(name: str) -> str:
    return f"failed to load {name!r}: "


def _reason(error: Exception) -> str:
    if isinstance(error, StartupError):
        return str(error)
    _log.error("loading failed", exc_info=error)
    return f"{type(error).__name__}: {error}"
