"""A world made of files: gateway, arms and registry that outlive the controller driving them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coalmine.arms import Arm
from coalmine.clock import Clock
from coalmine.fencing import Fence
from coalmine.gateway import RoutePlan
from coalmine.modeldir import ModelCard, Tensor, write_card
from coalmine.rollout import DeployedModel, EvidenceUnavailable, Measured, parse_measured

EDGES = (1000.0, 5000.0)


def make_model(directory: Path, *, content: str) -> Path:
    """A model directory that has a digest of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_text(content)
    tensor = Tensor(name="x", datatype="FP32", shape=(-1, 1))
    write_card(directory, ModelCard(name="m", inputs=(tensor,), outputs=(tensor,)))
    return directory


class Misrouted(AssertionError):
    """Requests were sent to an arm that cannot answer them."""


@dataclass
class FileWorld:
    """Router, ArmHost and ModelRegistry in one. `reached` is called at every effect, twice."""

    root: Path
    clock: Clock
    start_up: float = 3.0
    """Seconds from the deployment of a model to its first answer."""

    never_ready: tuple[str, ...] = ()
    """Versions that do not start."""

    arms_that_fail: set[Arm] = field(default_factory=set)
    """Arms on which nothing starts."""

    reached: Callable[[str], None] = lambda point: None
    route_problem: Exception | None = None
    may_misroute: bool = False
    misrouted: list[str] = field(default_factory=list)
    history: list[RoutePlan] = field(default_factory=list)
    token: int = 0

    def add_version(self, version: str, *, content: str | None = None) -> None:
        make_model(self.root / "models" / version, content=content or f"model {version}")

    def claim(self, token: int) -> None:
        self.reached(f"claim {token}")
        Fence(self.root / "fence").claim(token)
        self.token = token

    # -- router -----------------------------------------------------------------------------------

    async def apply(self, plan: RoutePlan) -> None:
        self.reached(f"apply {plan.decision_id}")
        if self.route_problem is not None:
            raise self.route_problem
        for arm in [*plan.weights, *([plan.mirror[0]] if plan.mirror else [])]:
            if not self._answers(arm) and not self.may_misroute:
                self._complain(f"{plan.decision_id} routes to {arm}, which does not answer")
        content = {
            "decision_id": plan.decision_id,
            "weights": {str(arm): weight for arm, weight in plan.weights.items()},
            "mirror": plan.mirror,
            "salt": plan.salt,
        }
        log = self._read("routes.json", [])
        self._write(
            "routes.json", [*log, {"time": self.clock.time(), "token": self.token, **content}]
        )
        self.history.append(plan)
        self.reached(f"applied {plan.decision_id}")

    async def applied(self) -> RoutePlan | None:
        log = self._read("routes.json", [])
        return _plan(log[-1]) if log else None

    def plans(self) -> list[tuple[float, RoutePlan]]:
        return [(entry["time"], _plan(entry)) for entry in self._read("routes.json", [])]

    # -- host -------------------------------------------------------------------------------------

    def deploy(self, arm: Arm, model: DeployedModel) -> None:
        self.reached(f"deploy {arm} {model.version}")
        arms = self._read("arms.json", {})
        since = self.clock.time()
        arms[arm] = {**asdict(model), "path": str(model.path), "since": since}
        self._write("arms.json", arms)
        self.reached(f"deployed {arm} {model.version}")

    def retire(self, arm: Arm) -> None:
        self.reached(f"retire {arm}")
        routes = self._read("routes.json", [])
        plan = _plan(routes[-1]) if routes else None
        if plan is not None and (plan.weights.get(arm) or (plan.mirror and plan.mirror[0] == arm)):
            self._complain(f"{arm} is retired while {plan.decision_id} routes to it")
        arms = self._read("arms.json", {})
        arms.pop(arm, None)
        self._write("arms.json", arms)
        self.reached(f"retired {arm}")

    def current(self) -> dict[Arm, DeployedModel]:
        return {
            Arm(arm): DeployedModel(entry["version"], Path(entry["path"]), entry["digest"])
            for arm, entry in self._read("arms.json", {}).items()
        }

    async def ready(self, arm: Arm, version: str) -> bool:
        return self._answers(arm, version)

    def _complain(self, what: str) -> None:
        self.misrouted.append(what)
        with (self.root / "misrouted.log").open("a") as log:
            log.write(what + "\n")
        raise Misrouted(what)

    def crash(self, arm: Arm) -> None:
        """The arm's server dies, and starts again."""
        arms = self._read("arms.json", {})
        arms[arm]["since"] = self.clock.time()
        self._write("arms.json", arms)

    def _answers(self, arm: Arm, version: str | None = None) -> bool:
        entry = self._read("arms.json", {}).get(arm)
        if entry is None or entry["version"] in self.never_ready or arm in self.arms_that_fail:
            return False
        started = self.clock.time() - entry["since"] >= self.start_up
        return started and version in (None, entry["version"])

    # -- registry ---------------------------------------------------------------------------------

    def materialise(self, version: str) -> Path:
        directory = self.root / "models" / version
        if not directory.is_dir():
            raise LookupError(f"m has no version {version!r}")
        return directory

    def champion(self) -> str | None:
        return self.registry().get("champion")

    def promote(self, version: str) -> None:
        self.reached(f"promote {version}")
        self._write("registry.json", {**self.registry(), "champion": version})
        self.reached(f"promoted {version}")

    def reject(self, version: str, reason: str) -> None:
        self.reached(f"reject {version}")
        self._write("registry.json", {**self.registry(), f"rejected {version}": reason})
        self.reached(f"rejected {version}")

    def registry(self) -> dict[str, Any]:
        found: dict[str, Any] = self._read("registry.json", {})
        return found

    # -- files ------------------------------------------------------------------------------------

    def _read(self, name: str, default: Any) -> Any:
        path = self.root / name
        return json.loads(path.read_text()) if path.exists() else default

    def _write(self, name: str, content: Any) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        fence = Fence(self.root / "fence")
        fence.replace(self.root / name, json.dumps(content).encode(), token=self.token)


def _plan(entry: dict[str, Any]) -> RoutePlan:
    mirror = entry["mirror"]
    return RoutePlan(
        entry["decision_id"],
        {Arm(arm): weight for arm, weight in entry["weights"].items()},
        mirror=(Arm(mirror[0]), mirror[1]) if mirror else None,
        salt=entry["salt"],
    )


@dataclass
class Traffic:
    """Evidence that follows from the routes that were in force, without any chance in it."""

    world: FileWorld
    clock: Clock
    accuracy: dict[str, float]
    errors: dict[str, float] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    rps: int = 40
    problem: str | None = None
    malformed: bool = False
    fetched: list[float] = field(default_factory=list)
    block_s: float = 1.0

    def read(self, content: bytes) -> Measured:
        return parse_measured(content)

    async def aclose(self) -> None:
        pass

    async def fetch(self, since: float) -> bytes:
        self.fetched.append(since)
        if self.problem is not None:
            raise EvidenceUnavailable(self.problem)
        if self.malformed:
            return b'{"evaluated_to": "never"}'
        return json.dumps(self.answer(since)).encode()

    def answer(self, since: float) -> dict[str, Any]:
        """The performance monitor's answer."""
        now = self.clock.time() - 1.0
        plans, arms = self.world.plans(), self.world.current()
        blocks, pairs = [], []
        for second in range(int(since), int(now)):
            plan = next((p for at, p in reversed(plans) if at <= second), None)
            if plan is None:
                continue
            shares = {arm: weight / 100 for arm, weight in plan.weights.items()}
            if plan.mirror is not None:
                shares[plan.mirror[0]] = shares[Arm.STABLE]
            for arm, share in shares.items():
                if arm in arms:
                    blocks.append(self._block(second, arm, arms[arm].version, share))
            if plan.mirror is not None and {Arm.STABLE, Arm.SHADOW} <= arms.keys():
                pairs.append(self._pair(second, *(arms[a].version for a in ("stable", "shadow"))))
        return {
            "evaluated_to": now,
            "block_s": 1.0,
            "latency_edges_us": EDGES,
            "blocks": blocks,
            "pairs": pairs,
            "label_coverage": 1.0,
        }

    def _block(self, second: int, arm: Arm, version: str, share: float) -> dict[str, Any]:
        requests = max(1, round(self.rps * share))
        slow = round(requests * self.slow.get(version, 0.0))
        return {
            "time": float(second),
            "version": version,
            "arm": arm.value,
            "requests": requests,
            "errors": round(requests * self.errors.get(version, 0.0)),
            "latency_counts": [requests - slow, slow, 0],
            "instances": requests,
            "labelled": requests,
            "correct": round(requests * self.accuracy[version]),
        }

    def _pair(self, second: int, stable: str, shadow: str) -> dict[str, Any]:
        right, also = (round(self.rps * self.accuracy[v]) for v in (stable, shadow))
        return {
            "time": float(second),
            "a_version": stable,
            "a_arm": "stable",
            "b_version": shadow,
            "b_arm": "shadow",
            "both_right": min(right, also),
            "only_a": max(0, right - also),
            "only_b": max(0, also - right),
            "both_wrong": self.rps - max(right, also),
        }
