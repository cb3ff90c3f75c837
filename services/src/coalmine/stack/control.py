"""The control side in one process: every service's app under its prefix, on one port.

    python -m coalmine.stack.control FILE --state DIR --port P

`coalmine up` runs this; on a cluster each service runs alone (`coalmine run`), from the same apps.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from coalmine.observability import configure_logging
from coalmine.retraining import load_mlflow
from coalmine.spec import ServiceFileError, load_service
from coalmine.stack._errors import StackError
from coalmine.stack._offer import offer_model
from coalmine.stack._ports import Ports
from coalmine.stack._services import Surroundings, build_service, services_for
from coalmine.stack._state import StateDirectory
from coalmine.web import answer_errors

__all__ = ["create_control", "main", "serve_app"]

_log = logging.getLogger(__name__)

#: Seconds that open connections have at the end; `coalmine up` kills soon after.
_GRACE = 1


def create_control(
    around: Surroundings, services: Sequence[str], *, alone: bool = False
) -> FastAPI:
    """One app of several services. Their lifespans run in order, and end in the reverse order.

    With `alone` the only service is at the root, as it runs on a cluster. `StackError` if the model
    service has nothing for one of them to do.
    """
    for name in services:
        if name == "retrainer" and around.service.retraining is None:
            raise StackError(
                "retrainer cannot start: retraining: the service file has no such section, add one "
                "with `pipeline`"
            )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as resources:
            for name in services:
                try:
                    service = await build_service(name, around, resources)
                    # A mounted app's own lifespan is not run by the app it is mounted on.
                    await resources.enter_async_context(service.router.lifespan_context(service))
                except Exception as error:
                    app.state.failure = f"{name} cannot start: {error or type(error).__name__}"
                    app.state.explained = isinstance(error, StackError)
                    raise
                app.mount("/" if alone else f"/{name}", service)
            if not alone:
                offer = asyncio.create_task(_offer(around))
                resources.push_async_callback(_cancel, offer)
            yield

    control = FastAPI(title=f"Coalmine {around.service.name}", lifespan=lifespan, openapi_url=None)
    answer_errors(control)
    if not alone:

        @control.get("/healthz")
        async def healthz() -> dict[str, object]:
            return {"status": "ok", "services": list(services)}

    return control


async def _offer(around: Surroundings) -> None:
    try:
        await offer_model(around.service, state=around.state, rollout_url=around.url_of("rollout"))
    except Exception:
        # The rest of the control side is of use without it.
        _log.exception("the model of the service file is not offered")


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def serve_app(app: FastAPI, *, port: int) -> None:
    """Serve an app on loopback until SIGTERM or SIGINT; `StackError` if it cannot start."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_config=None,  # ours, as JSON lines
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=_GRACE,
    )
    server = uvicorn.Server(config)

    def wanted(record: logging.LogRecord) -> bool:
        # uvicorn logs whatever ends the start with its traceback, also what is the user's to mend.
        explained = getattr(app.state, "explained", False)
        return not (explained and record.getMessage().startswith("Traceback"))

    logger = logging.getLogger("uvicorn.error")
    logger.addFilter(wanted)
    try:
        asyncio.run(server.serve())
    except SystemExit as error:  # uvicorn's way to say so
        taken = f"port {port} cannot be used; --port names another"
        raise StackError(getattr(app.state, "failure", taken)) from error
    finally:
        logger.removeFilter(wanted)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the control side of a stack."""
    parser = argparse.ArgumentParser(prog="coalmine.stack.control", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True, help="the gateway's; this is one more")
    parser.add_argument("--telemetry", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-notifier", action="store_true", help="Alertmanager does its work")
    options = parser.parse_args(arguments)
    configure_logging()
    try:
        service = load_service(options.file)
        around = Surroundings(
            service=service,
            state=StateDirectory(options.state),
            ports=Ports(options.port),
            telemetry=options.telemetry,
            seed=options.seed,
        )
        services = services_for(service, embedded_alerts=not options.no_notifier)
        # Both import themselves in circles, and the services' threads would do it at the same time.
        import pandas  # noqa: F401  # on behalf of Arrow, which imports it at its first use

        load_mlflow()
        serve_app(create_control(around, services), port=around.ports.control)
    except (ServiceFileError, StackError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
