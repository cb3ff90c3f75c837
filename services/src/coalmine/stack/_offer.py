"""The model a service file names itself: registered, and offered to the rollout, once.

`models:/...` is in the registry already, or will be when the pipeline has run. A directory, `file:`
or fetched from elsewhere, is registered under its content: the same content is offered once, new
content as a new version, which then has to prove itself as any other.
"""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path

import httpx

from coalmine.modeldir import load_card, model_digest
from coalmine.sources import SourceError, check_uri, fetch, is_remote, redacted
from coalmine.spec import ServiceSpec
from coalmine.stack._errors import StackError
from coalmine.stack._state import StateDirectory

__all__ = ["check_model", "offer_model"]

_log = logging.getLogger(__name__)
_RETRY = 1.0
#: Seconds between two attempts at a source that does not answer.
_FETCH_RETRY = 30.0


def check_model(service: ServiceSpec) -> Path | None:
    """The directory of a `file:` model, None for one of the registry or from elsewhere.

    `StackError` or `ModelDirectoryError` if what the file names cannot be served. Of what is
    elsewhere only the form of its URI is looked at.
    """
    uri = service.model.uri
    if _is_elsewhere(uri):
        try:
            check_uri(uri)
        except SourceError as error:
            raise StackError(f"model.uri: {error}") from error
        return None
    if uri.startswith("file:"):
        directory = Path(re.sub(r"^file:(//)?", "", uri))
        load_card(directory)
        return directory
    named = re.fullmatch(r"models:/([^/@]+)([/@].+)?", uri)
    if named is None or named[1] != service.name:
        raise StackError(f"model.uri: {uri} names another model than `name`: {service.name}")
    return None


async def offer_model(service: ServiceSpec, *, state: StateDirectory, rollout_url: str) -> None:
    """Fetch and register a model and start its rollout, unless that was done before.

    Safe to repeat, and to be killed at any point. Waits for the source and for the rollout
    controller. `ModelDirectoryError` if what was fetched is no model directory.
    """
    directory = check_model(service)
    if directory is None and _is_elsewhere(service.model.uri):
        directory = await _fetched(service.model.uri, state=state)
    if directory is None:
        return
    version = await asyncio.to_thread(_register, service, directory, state)
    async with httpx.AsyncClient(base_url=rollout_url, timeout=10.0, trust_env=False) as client:
        while True:
            try:
                known = (await client.get("/v1/rollouts")).raise_for_status().json()["rollouts"]
                if any(rollout["version"] == version for rollout in known):
                    return
                reason = f"model.uri: {_shown(service, directory)}"
                body = {"version": version, "reason": reason, "actor": "up"}
                (await client.post("/v1/rollouts", json=body)).raise_for_status()
                return
            except httpx.HTTPError as error:
                # Not up yet, or another rollout runs: that one is judged first.
                _log.info("version %s is not offered yet: %r", version, error)
                await asyncio.sleep(_RETRY)


async def _fetched(uri: str, *, state: StateDirectory) -> Path:
    """The model directory at a URI. Tries until its source answers."""
    while True:
        try:
            found = await asyncio.to_thread(fetch, uri, cache=state.root / "fetched")
            break
        except SourceError as error:
            # What was offered before goes on, and a store may be back in a minute.
            _log.error("model.uri: %s; trying again in %g s", error, _FETCH_RETRY)
            await asyncio.sleep(_FETCH_RETRY)
    directory = found.path if found.path.is_dir() else found.path.parent
    load_card(directory)
    return directory


def _is_elsewhere(uri: str) -> bool:
    return is_remote(uri) and not uri.startswith("models:")


def _shown(service: ServiceSpec, directory: Path) -> str:
    uri = service.model.uri
    return redacted(uri) if _is_elsewhere(uri) else str(directory)


def _register(service: ServiceSpec, directory: Path, state: StateDirectory) -> str:
    from coalmine.retraining import local_registry, register_directory

    registry = local_registry(service.name, state=state.root)
    # The run is the content: registering it again gives the version that exists.
    run = f"file-{model_digest(directory).removeprefix('sha256:')[:16]}"
    reason = f"model.uri of the service file: {_shown(service, directory)}"
    return register_directory(registry, directory, run=run, reason=reason).version
