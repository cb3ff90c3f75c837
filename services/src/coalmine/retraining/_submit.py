"""Handing the pipeline to Kubeflow Pipelines on a cluster, once however often it is asked."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.retraining._errors import RetrainingError
from coalmine.retraining._kfp import compile_pipeline, load_pipeline
from coalmine.retraining._manifests import cluster_of
from coalmine.retraining._parameters import RunParameters

if TYPE_CHECKING:
    from coalmine.spec import ServiceSpec

#: The bearer token for an endpoint that wants one.
TOKEN = "COALMINE_KFP_TOKEN"
_FAILED = frozenset({"FAILED", "CANCELED", "SKIPPED", "ERROR"})
_ENDED = _FAILED | {"SUCCEEDED"}
_TIMEOUT = 10.0
#: Failed runs of one name, before someone should look at them.
_TRIES = 100


@dataclass(frozen=True, slots=True)
class Submitted:
    """A run of the pipeline on a cluster."""

    run: str
    """Its id there."""

    name: str
    state: str
    created: bool
    """False: the same run had been submitted before, and has not failed."""

    error: str | None = None


def cluster_parameters(
    service: ServiceSpec, *, run: str, reason: str, given: Mapping[str, str]
) -> dict[str, Any]:
    """The arguments of the pipeline on a cluster: the service file's, then those that are given."""
    cluster, retraining = cluster_of(service), service.retraining
    assert retraining is not None
    place = cluster.volume.path if cluster.volume is not None else None
    elsewhere = {"tracking_uri": cluster.tracking_uri, "log_uri": cluster.log_uri}
    missing = [key for key, value in elsewhere.items() if value is None and key not in given]
    if place is None and missing:
        raise RetrainingError(
            f"retraining.cluster.{missing[0]}: is missing; without a `volume` there is no default"
        )
    parameters = RunParameters(
        run_id=run,
        kind="retrain" if given.get("champion") else "bootstrap",
        reason=reason,
        model_name=service.name,
        seed=0,
        trials=retraining.trials,
        tuning_seconds=retraining.time_limit / 4,
        window_rows=service.monitors.drift.window_rows,
        tracking_uri=cluster.tracking_uri or f"sqlite:///{place}/mlflow.db",
        artifacts=f"{place or '/tmp'}/mlartifacts",
        models=f"{place or '/tmp'}/models",
        data=f"{place or '/tmp'}/data",
        log_uri=cluster.log_uri or f"sqlite:///{place}/records.db",
        candidates=",".join(retraining.candidates),
        segments=("class", *(segment.text for segment in retraining.segments)),
    )
    known = parameters.arguments(load_pipeline(retraining.pipeline))
    if unknown := sorted(set(given) - set(known)):
        raise RetrainingError(
            f"--set {unknown[0]}: no parameter of the pipeline; it has {', '.join(sorted(known))}"
        )
    for name, text in given.items():
        known[name] = _parsed(name, text, type(known[name]))
    return known


def submit(
    service: ServiceSpec,
    *,
    endpoint: str,
    reason: str,
    given: Mapping[str, str],
) -> Submitted:
    """Start a run of the compiled pipeline, unless the same one is under way or has succeeded.

    The same: the same pipeline with the same arguments, told by the digest in the run's name.
    RetrainingError says what is wrong with the endpoint, the file or the arguments.
    """
    cluster = cluster_of(service)
    assert service.retraining is not None
    _reach(endpoint)
    with tempfile.TemporaryDirectory() as scratch, _errors(endpoint):
        package = Path(scratch) / "pipeline.yaml"
        compile_pipeline(package, pipeline=service.retraining.pipeline, cluster=cluster)
        arguments = cluster_parameters(service, run="", reason=reason, given=given)
        digest = hashlib.sha256(package.read_bytes())
        digest.update(json.dumps(arguments, sort_keys=True).encode())
        name = f"{service.name}-{digest.hexdigest()[:12]}"
        client = _client(endpoint)
        experiment = client.create_experiment(cluster.experiment or service.name).experiment_id
        known, name = _known(client, experiment, name)
        if known is not None:
            return Submitted(known.run_id, name, str(known.state), created=False)
        run = client.run_pipeline(
            experiment,
            name,
            str(package),
            params={**arguments, "run_id": name},
            service_account=cluster.service_account,
        )
        return Submitted(run.run_id, name, str(run.state or "PENDING"), created=True)


def wait_for(
    submitted: Submitted,
    *,
    endpoint: str,
    seconds: float,
    tell: Callable[[str], None],
    clock: Clock = SYSTEM_CLOCK,
    sleep: Callable[[float], None],
) -> Submitted:
    """Wait for a run to end, and tell of each new state; RetrainingError if it takes longer."""
    until, seen = clock.monotonic() + seconds, ""
    with _errors(endpoint):
        client = _client(endpoint)
        while True:
            run = client.get_run(submitted.run)
            state = str(run.state or "PENDING")
            if state != seen:
                tell(state)
                seen = state
            if state in _ENDED:
                error = run.error.message if run.error is not None else None
                return Submitted(**{**asdict(submitted), "state": state, "error": error})
            if clock.monotonic() >= until:
                raise RetrainingError(
                    f"run {submitted.run} is {state} after {seconds:g} s; it goes on without us"
                )
            sleep(2.0)


def _known(client: Any, experiment: str, name: str) -> tuple[Any, str]:
    """The run of this name that has not failed, if there is one; else None and a free name."""
    for number in range(1, _TRIES):
        tried = name if number == 1 else f"{name}-{number}"
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": tried}
        found = client.list_runs(
            experiment_id=experiment, filter=json.dumps({"predicates": [predicate]})
        ).runs
        if not found:
            return None, tried
        for run in found:
            if str(run.state) not in _FAILED:
                return run, tried
    raise RetrainingError(f"{name}: failed {_TRIES} times; see the runs of the experiment")


def _reach(endpoint: str) -> None:
    """Ask the API whether it is there: its own client would try for minutes, and say little."""
    import httpx

    url = f"{endpoint.rstrip('/')}/apis/v2beta1/healthz"
    try:
        answer = httpx.get(url, headers=_headers(), timeout=_TIMEOUT, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RetrainingError(f"--submit {endpoint}: cannot be reached: {error}") from error
    if answer.status_code in (401, 403):
        raise RetrainingError(
            f"--submit {endpoint}: {answer.status_code}; it wants a token, in ${TOKEN}"
        )
    try:
        answer.raise_for_status().json()
    except (httpx.HTTPStatusError, ValueError) as error:
        raise RetrainingError(
            f"--submit {endpoint}: answers {answer.status_code} to /apis/v2beta1/healthz, not as a "
            "Kubeflow Pipelines API does; is it the address of the API?"
        ) from error


def _headers() -> dict[str, str]:
    token = os.environ.get(TOKEN)
    return {"Authorization": f"Bearer {token}"} if token else {}


def _client(endpoint: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of servers before 2.0
        import kfp

        return kfp.Client(host=endpoint, existing_token=os.environ.get(TOKEN))


@contextmanager
def _errors(endpoint: str) -> Iterator[None]:
    """What the client raises, as one line."""
    import kfp_server_api
    import urllib3

    try:
        yield
    except kfp_server_api.ApiException as error:
        raise RetrainingError(f"--submit {endpoint}: {error.status}: {_said(error)}") from error
    except urllib3.exceptions.HTTPError as error:
        raise RetrainingError(f"--submit {endpoint}: the connection broke: {error}") from error


def _said(error: Any) -> str:
    """The server's own words."""
    try:
        content = json.loads(error.body)
        return str(content.get("error") or content.get("message") or error.body)
    except (TypeError, ValueError, AttributeError):
        return str(error.body or error.reason)


def _parsed(name: str, text: str, kind: type) -> Any:
    """A parameter given as a text, of the type that the pipeline takes."""
    if kind is list:
        return [part.strip() for part in text.split(";") if part.strip()]
    try:
        return kind(text)
    except ValueError as error:
        raise RetrainingError(f"--set {name}={text}: wanted a {kind.__name__}") from error
