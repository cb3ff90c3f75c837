"""Talking to a running stack, found by its state directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coalmine.cli._errors import CommandError, NoAnswer

if TYPE_CHECKING:
    from coalmine.stack import Running

__all__ = ["StateOption", "find_running", "find_stack", "request"]

_HOME = Path(".coalmine")

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="COALMINE_STATE",
        help="State directory of the stack",
        show_default="the only one below .coalmine",
    ),
]


def find_running(state: Path | None) -> Running:
    """The stack that runs on a state directory, or the only one that runs below `.coalmine`."""
    return find_stack(state)[1]


def find_stack(state: Path | None) -> tuple[Path, Running]:
    """As `find_running`, with its state directory."""
    from coalmine.stack import NotRunningError, read_running

    if state is not None:
        return state, read_running(state)
    running = {}
    for directory in sorted(_HOME.glob("*/")):
        try:
            running[directory] = read_running(directory)
        except NotRunningError:
            continue
    if len(running) == 1:
        return next(iter(running.items()))
    if running:
        names = ", ".join(str(directory) for directory in running)
        raise CommandError(f"several stacks run ({names}): choose one with --state DIR")
    raise CommandError(
        f"no stack runs below {_HOME.absolute()}; start one with: coalmine up FILE "
        "(or name its state directory with --state DIR)"
    )


def request(
    running: Running,
    service: str,
    path: str,
    *,
    method: str = "GET",
    body: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Any:
    """The JSON answer of a control service; `CommandError` with its reason if it refuses."""
    import httpx

    # All are in the control process but one, which is a part by itself.
    base = running.url("alibi") if service == "alibi" else f"{running.url('control')}/{service}"
    url = f"{base}{path}"
    try:
        # The environment's proxies are not for the parts of the stack.
        response = httpx.request(
            method, url, json=body, params=params, timeout=30.0, trust_env=False
        )
    except httpx.TransportError as error:
        raise NoAnswer(
            f"{service} does not answer at {url} ({error or type(error).__name__}); it may be "
            "restarting: see coalmine status"
        ) from error
    if response.is_success:
        return response.json()
    raise CommandError(f"{service} refuses ({response.status_code}): {_reason(response)}")


def _reason(response: Any) -> str:
    try:
        content = response.json()
    except ValueError:
        return str(response.text)[:200] or "no reason given"
    if isinstance(content, dict):
        return str(content.get("error") or content.get("detail") or content)
    return str(content)
