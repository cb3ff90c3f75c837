"""Run the monitors of a service file's `monitors.alibi`, or only check them.

    python -m coalmine_alibi FILE --check
    python -m coalmine_alibi FILE --state DIR --port 8089

`coalmine up` starts the second by itself. The state directory is that of the stack: the record log
`records.db` and the model directories in `models/` are read, `alibi-NAME.db` is written.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from coalmine.observability import configure_logging
from coalmine.records import open_log
from coalmine.spec import ServiceFileError, load_service
from coalmine_alibi._app import create_alibi_app
from coalmine_alibi._check import check
from coalmine_alibi._errors import AlibiError

__all__ = ["main"]

#: Seconds that open connections have at the end; `coalmine up` kills soon after.
_GRACE = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="coalmine_alibi",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="the model service file")
    parser.add_argument("--check", action="store_true", help="say whether they can run, and stop")
    parser.add_argument("--state", type=Path, help="state directory of the stack")
    parser.add_argument("--log", help="record log [default: records.db of the state directory]")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on [%(default)s]")
    parser.add_argument("--port", type=int, default=8089, help="port to listen on [%(default)s]")
    options = parser.parse_args(arguments)
    if not options.check and options.state is None:
        parser.error("--state DIR is needed, or --check")
    try:
        service = load_service(options.file)
        if options.check:
            for plan in check(service):
                print(f"alibi/{plan.name}: {plan.detector}, windows of {plan.window_rows} rows")
            return 0
        configure_logging()
        log = open_log(options.log or f"sqlite:///{(options.state / 'records.db').absolute()}")
        try:
            app = create_alibi_app(
                service, log=log, state=options.state, models=options.state.absolute() / "models"
            )
            _serve(app, host=options.host, port=options.port)
        finally:
            log.close()
    except (ServiceFileError, AlibiError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _serve(app: object, *, host: str, port: int) -> None:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=host,
        port=port,
        log_config=None,  # ours, as JSON lines
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=_GRACE,
    )
    logging.getLogger("alibi_detect").setLevel(logging.ERROR)
    asyncio.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    sys.exit(main())
