"""What the cluster's data planes have in common: a plan is asked for, then waited for.

On a cluster, weights and models stand in one object and depend on each other, so each data plane is
router and arm host in one. Which model an arm has is told by what the cluster runs, a revision or a
deployment, never by a name or by what was asked for: an arm counts when it is routed to and runs
the model it should.
"""

from __future__ import annotations

import asyncio
import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self, TypeVar

from coalmine.arms import Arm
from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.gateway import GatewayUnavailable, RouteNotApplied, RoutePlan
from coalmine.rollout._protocols import DeployedModel
from coalmine.rollout.routers._errors import ClusterRefused
from coalmine.rollout.routers._kubernetes import Kind, Kubernetes, Object
from coalmine.rollout.routers._wish import Wish

__all__ = ["ClusterDataPlane", "ModelUri", "Observed", "Uris"]

#: Which model an arm should run, by its storage URI.
Uris = Mapping[Arm, str]

K = TypeVar("K")

#: The decision of a state that this process did not bring about.
_OBSERVED = "observed"


@dataclass(frozen=True, slots=True)
class ModelUri:
    """Where the cluster finds a model version: a template with `{name}`, `{version}`, `{digest}`.

    >>> from pathlib import Path
    >>> model = DeployedModel("4", Path("/models/4"), "sha256:5f2a")
    >>> ModelUri("s3://models/{name}/{version}", name="m").of(model)
    's3://models/m/4'
    """

    template: str
    name: str

    def of(self, model: DeployedModel) -> str:
        """The storage URI of a version; `{digest}` is in hexadecimal, without its algorithm."""
        digest = model.digest.rpartition(":")[2]
        return self.template.format(name=self.name, version=model.version, digest=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the data plane does at one moment, as it tells itself."""

    shares: Mapping[str, int]
    """Percent of requests, by the storage URI of the model that answers them."""

    by_arm: Mapping[Arm, int] | None = None
    """Percent by arm, where arms are told apart that run the same model; None: they are not."""

    mirror: tuple[str, float] | None = None
    """The model that sees copies of requests, and their share."""

    stale: str | None = None
    """Why this may not be what was asked for last; None: it is."""

    unready: str | None = None
    """Why the newest candidate is not the one that is routed to; None: it is."""

    refused: str | None = None
    """Why the data plane will never take what was asked for, as it stands."""

    def confirms(self, plan: RoutePlan, uris: Uris) -> bool:
        """Whether requests are routed by the plan, for sure, to the models they should reach."""
        if self.stale is not None or not uris.keys() >= set(plan.weights):
            return False
        if plan.weights.get(Arm.CANARY) and self.unready is not None:
            return False
        if self.by_arm is not None and _positive(self.by_arm) != _positive(plan.weights):
            return False
        mirror = None
        if plan.mirror is not None:
            mirror = (uris.get(plan.mirror[0]), plan.mirror[1])
        return _positive(self.shares) == _wanted(plan, uris) and self.mirror == mirror


def _positive(shares: Mapping[K, int]) -> dict[K, int]:
    return {key: share for key, share in shares.items() if share}


def _wanted(plan: RoutePlan, uris: Uris) -> dict[str, int]:
    wanted: dict[str, int] = {}
    for arm, weight in plan.weights.items():
        if weight:
            wanted[uris[arm]] = wanted.get(uris[arm], 0) + weight
    return wanted


class ClusterDataPlane(ABC):
    """Router and arm host of one model service on a cluster (rollout's protocols of those names).

    One `apply` at a time is in progress, others wait. What was asked for stays asked for when
    `apply` gives up: the controller asks again, for the same or for the way back.
    """

    #: The arms that this data plane has.
    arms: frozenset[Arm] = frozenset({Arm.STABLE, Arm.CANARY})
    #: Whether it can send copies of requests to the shadow arm.
    mirrors: bool = False

    def __init__(
        self,
        api: Kubernetes,
        *,
        name: str,
        model_uri: ModelUri,
        timeout: float = 15.0,
        poll: float = 0.25,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._api = api
        self._name = name
        self._model_uri = model_uri
        self._timeout = timeout
        self._poll = poll
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._wish = Wish(api, name=name)
        self._token = 0
        self._last: RoutePlan | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._api.close)

    def claim(self, token: int) -> None:
        """Refuse the writes of smaller tokens from here on; `FencedOff` if a larger one claimed."""
        self._wish.claim(token)
        self._token = token

    def _update(
        self,
        kind: Kind,
        name: str,
        change: Callable[[Object], Object],
        *,
        owned: Callable[[Object], object],
    ) -> None:
        """`Kubernetes.update`, if nobody with a larger token has claimed.

        That is asked after the object was read: who claims and then writes it makes this write
        fail. A claim whose owner has nothing to write leaves a gap of the one request in between.
        """

        def fenced(found: Object) -> Object:
            before = copy.deepcopy(found)
            wanted = change(found)
            if wanted != before:
                self._wish.check(self._token)
            return wanted

        self._api.update(kind, name, fenced, owned=owned)

    # -- router -----------------------------------------------------------------------------------

    async def apply(self, plan: RoutePlan) -> None:
        """Return when the data plane shows the plan; else `RouteNotApplied` and why.

        An API server that is away is waited for, up to the timeout.
        """
        async with self._one_at_a_time:
            self._refuse(plan)
            if plan.weights:
                await self._ask_and_wait(plan)
            # With no model deployed there is nothing to route: what serves is left alone.
            self._last = plan

    async def applied(self) -> RoutePlan | None:
        """The plan in force, as the data plane itself tells it.

        None while it is not sure, and when requests reach a model that no arm should have. The
        decision's id and salt are those of the last plan that this process applied, if that is in
        force, else `observed`: the cluster has no place for them.
        """
        last = self._last
        uris = await asyncio.to_thread(self._uris)
        if not uris:
            return last if last is not None and not last.weights else None
        observed = await asyncio.to_thread(self._observe, uris)
        if last is not None and last.weights and observed.confirms(last, uris):
            return last
        return None if observed.stale is not None else _plan_of(observed, uris)

    async def _ask_and_wait(self, plan: RoutePlan) -> None:
        give_up = self._clock.monotonic() + self._timeout
        asked = False
        problem = "it did not take the weights in time"
        while True:
            try:
                uris = await asyncio.to_thread(self._uris)
                if missing := [arm.value for arm in plan.weights if arm not in uris]:
                    raise RouteNotApplied(f"no model is deployed on {', '.join(missing)}")
                if not asked:
                    await asyncio.to_thread(self._ask, plan, uris)
                    asked = True
                elif not await asyncio.to_thread(self._asked, plan, uris):
                    raise RouteNotApplied(
                        f"{self._name}: somebody else changed the weights while they were applied; "
                        "is there a second controller?"
                    )
                observed = await asyncio.to_thread(self._observe, uris)
                if observed.confirms(plan, uris):
                    return
                problem = observed.stale or observed.unready or _difference(observed, plan, uris)
                if observed.refused is not None:
                    raise ClusterRefused(observed.refused)
            except GatewayUnavailable as error:
                problem = str(error)
            except RouteNotApplied as error:
                raise type(error)(f"{plan.decision_id}: {error.reason}") from error
            if self._clock.monotonic() >= give_up:
                raise RouteNotApplied(f"{plan.decision_id}: after {self._timeout:g} s: {problem}")
            await asyncio.sleep(self._poll)

    def _refuse(self, plan: RoutePlan) -> None:
        if plan.mirror is not None and not self.mirrors:
            raise ClusterRefused(
                f"{plan.decision_id}: KServe cannot mirror requests to a shadow arm; set "
                "`rollout.shadow: null`, or use `cluster.router: httproute`"
            )
        used = {*plan.weights, *((plan.mirror[0],) if plan.mirror else ())}
        if unknown := sorted(used - self.arms):
            raise ClusterRefused(
                f"{plan.decision_id}: this data plane has no arm {', '.join(unknown)}"
            )

    # -- arm host ---------------------------------------------------------------------------------

    def deploy(self, arm: Arm, model: DeployedModel) -> None:
        """Ask for a model version on an arm; durable when this returns, `ready` once it answers."""
        if arm not in self.arms:
            raise ClusterRefused(f"this data plane has no arm {arm.value}")
        if self.current().get(arm) == model:
            return
        arms = self._wish.read()
        # The note comes last: killed in between, the controller asks again.
        self._deploy(arm, model, self._uris(arms))
        self._wish.write({**arms, arm: model}, token=self._token)

    def retire(self, arm: Arm) -> None:
        """Ask for an arm to be stopped; durable when this returns."""
        arms = self._wish.read()
        if arm in arms:
            self._retire(arm, self._uris(arms))
            left = {each: model for each, model in arms.items() if each != arm}
            self._wish.write(left, token=self._token)

    def current(self) -> dict[Arm, DeployedModel]:
        """What was asked for last; without stable, if somebody took its model out of the cluster.

        It is then deployed again. A candidate that was taken out is not: it does not become ready,
        and is given up.
        """
        arms = self._wish.read()
        uris = self._uris(arms)
        if Arm.STABLE in arms and not self._holds(Arm.STABLE, uris):
            del arms[Arm.STABLE]
        return arms

    async def ready(self, arm: Arm, version: str) -> bool:
        """Whether the arm answers requests, and with this version."""
        try:
            arms = await asyncio.to_thread(self._wish.read)
            if arm not in arms or arms[arm].version != version:
                return False
            return await asyncio.to_thread(self._ready, arm, self._uris(arms))
        except GatewayUnavailable:
            return False

    def _uris(self, arms: Mapping[Arm, DeployedModel] | None = None) -> Uris:
        arms = self._wish.read() if arms is None else arms
        return {arm: self._model_uri.of(model) for arm, model in arms.items()}

    # -- of each kind of data plane, all of them blocking -----------------------------------------

    @abstractmethod
    def _ask(self, plan: RoutePlan, uris: Uris) -> None:
        """Write what the plan wants, where it is not written yet."""

    @abstractmethod
    def _asked(self, plan: RoutePlan, uris: Uris) -> bool:
        """Whether what is written is still what the plan wants."""

    @abstractmethod
    def _observe(self, uris: Uris) -> Observed:
        """What the data plane does now."""

    @abstractmethod
    def _deploy(self, arm: Arm, model: DeployedModel, uris: Uris) -> None:
        """Write a model to an arm, without changing what requests reach; `uris`: before it."""

    @abstractmethod
    def _retire(self, arm: Arm, uris: Uris) -> None:
        """Remove an arm that is not routed to."""

    @abstractmethod
    def _holds(self, arm: Arm, uris: Uris) -> bool:
        """Whether the arm's model is written anywhere, running or not."""

    @abstractmethod
    def _ready(self, arm: Arm, uris: Uris) -> bool:
        """Whether the arm runs its model and answers."""


def _plan_of(observed: Observed, uris: Uris) -> RoutePlan | None:
    arm_of: dict[str, Arm] = {}
    for arm in (Arm.STABLE, Arm.CANARY, Arm.SHADOW):
        if arm in uris:
            arm_of.setdefault(uris[arm], arm)
    shares = _positive(observed.shares)
    models = {*shares, *((observed.mirror[0],) if observed.mirror else ())}
    if not models <= arm_of.keys() or sum(shares.values()) != 100:
        return None
    weights = {arm_of[uri]: share for uri, share in shares.items()}
    if observed.by_arm is not None and sum(observed.by_arm.values()) == 100:
        weights = _positive(observed.by_arm)
    if Arm.SHADOW in weights:
        return None
    mirror = (arm_of[observed.mirror[0]], observed.mirror[1]) if observed.mirror else None
    return RoutePlan(_OBSERVED, weights, mirror=mirror)


def _difference(observed: Observed, plan: RoutePlan, uris: Uris) -> str:
    shares, wanted = _positive(observed.shares), _wanted(plan, uris)
    return f"requests go to {shares}, and should go to {wanted}"
