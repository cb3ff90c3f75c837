"""The way back to stable on this machine, when the control process does not answer."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

from coalmine.spec import load_service
from coalmine.stack._ports import Ports
from coalmine.stack._services import Surroundings, local_data_plane
from coalmine.stack._state import StateDirectory, read_running

__all__ = ["abort_directly"]


async def abort_directly(root: Path, *, actor: str, reason: str) -> str:
    """Abort the rollout under way by writing Envoy's routes and `arms.json` from here.

    Needs the gateway and the supervisor (`coalmine up`), not the control process. Returns the
    rollout's id. `StackError` if nothing runs on the state directory; a `RolloutError` otherwise.
    """
    from coalmine.retraining import local_registry
    from coalmine.rollout import rescue

    running = read_running(root)
    gateway = urlsplit(running.url("gateway")).port
    assert gateway is not None
    state = StateDirectory(root)
    around = Surroundings(
        service=load_service(Path(running.file)), state=state, ports=Ports(gateway)
    )
    async with AsyncExitStack() as resources:
        router, host = await local_data_plane(around, resources)
        done = await rescue(
            state.database("rollout"),
            router=router,
            host=host,
            registry=local_registry(around.service.name, state=root),
            actor=actor,
            reason=reason,
            clock=around.clock,
        )
    return done.id
