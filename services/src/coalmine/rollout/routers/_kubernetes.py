"""A small client of the Kubernetes API: objects as JSON, and changes that lose nobody's work.

An update sends back the object's `resourceVersion`, so the server refuses it (409) when somebody
wrote in between. It is then read and changed anew, unless what moved is the very thing that was to
be changed: then somebody else decides about it too, and neither may win silently.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from coalmine.gateway import GatewayUnavailable, RouteNotApplied
from coalmine.rollout.routers._access import ClusterAccess
from coalmine.rollout.routers._errors import ClusterRefused

__all__ = [
    "CONFIG_MAP",
    "DEPLOYMENT",
    "HTTP_ROUTE",
    "INFERENCE_SERVICE",
    "KNATIVE_REVISION",
    "KNATIVE_SERVICE",
    "Kind",
    "Kubernetes",
    "Object",
]

Object = dict[str, Any]

#: Attempts at one request or update, and the longest wait between two, in seconds.
_TRIES = 6
_LONGEST_WAIT = 2.0
_FIRST_WAIT = 0.05
_BUSY = (429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Kind:
    """A namespaced resource of the API."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str, name: str | None = None) -> str:
        """The collection, or one object of it."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        collection = f"{root}/namespaces/{namespace}/{self.plural}"
        return collection if name is None else f"{collection}/{name}"

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


INFERENCE_SERVICE = Kind("serving.kserve.io", "v1beta1", "inferenceservices")
KNATIVE_SERVICE = Kind("serving.knative.dev", "v1", "services")
KNATIVE_REVISION = Kind("serving.knative.dev", "v1", "revisions")
HTTP_ROUTE = Kind("gateway.networking.k8s.io", "v1", "httproutes")
DEPLOYMENT = Kind("apps", "v1", "deployments")
CONFIG_MAP = Kind("", "v1", "configmaps")


class Kubernetes:
    """One namespace of a cluster. Every method blocks; threads may share it."""

    def __init__(
        self, access: ClusterAccess, *, namespace: str | None = None, timeout: float = 5.0
    ) -> None:
        self.namespace = namespace or access.namespace
        self._access = access
        self._http = httpx.Client(
            base_url=access.server,
            timeout=timeout,
            # Reading the system's certificates takes a while, and plain HTTP needs none.
            verify=access.tls or access.server.startswith("https"),
            # Proxies of the environment are for the way out of a cluster.
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, kind: Kind, name: str) -> Object | None:
        """An object; None if there is no such."""
        problem: GatewayUnavailable | None = None
        for attempt in range(_TRIES):
            try:
                response = self._send("GET", kind.path(self.namespace, name))
            except GatewayUnavailable as error:
                problem = error
                _wait(attempt)
                continue
            if response.status_code == 404:
                return None
            if response.is_success:
                return _object(response)
            if response.status_code not in _BUSY:
                raise _refused("read", kind, name, response)
            problem = _unavailable(response)
            _wait(attempt, response)
        assert problem is not None
        raise problem

    def update(
        self,
        kind: Kind,
        name: str,
        change: Callable[[Object], Object],
        *,
        owned: Callable[[Object], object],
    ) -> Object:
        """Change an object, and return it as it is then; nothing is sent if it is so already.

        `change` gets a copy to change and return, and may get several. `owned` is the part of the
        object that is ours to decide: if another writer moves it meanwhile, `RouteNotApplied`.
        """
        first: list[object] = []
        for attempt in range(_TRIES):
            found = self.get(kind, name)
            if found is None:
                raise ClusterRefused(f"{kind}: there is no {name} in namespace {self.namespace}")
            wanted = change(copy.deepcopy(found))
            if wanted == found:
                return found
            if first and owned(found) != first[0]:
                raise RouteNotApplied(
                    f"{kind} {name}: another writer changed {owned(found)!r} at the same time; is "
                    "there a second controller, or a pipeline that applies manifests?"
                )
            first = first or [owned(found)]
            try:
                response = self._send("PUT", kind.path(self.namespace, name), wanted)
            except GatewayUnavailable:
                # It may have been taken all the same: the next reading tells.
                _wait(attempt)
                continue
            if response.is_success:
                return _object(response)
            if response.status_code == 409 or response.status_code in _BUSY:
                _wait(attempt, response)
                continue
            raise _refused("update", kind, name, response)
        raise RouteNotApplied(
            f"{kind} {name}: could not be updated in {_TRIES} attempts; it keeps changing, or the "
            "API server is overloaded"
        )

    def create(self, kind: Kind, body: Object) -> None:
        """Create an object; one of that name that exists already is left as it is."""
        name = body["metadata"]["name"]
        for attempt in range(_TRIES):
            try:
                response = self._send("POST", kind.path(self.namespace), body)
            except GatewayUnavailable:
                _wait(attempt)
                continue
            if response.is_success or response.status_code == 409:
                return
            if response.status_code not in _BUSY:
                raise _refused("create", kind, name, response)
            _wait(attempt, response)
        raise GatewayUnavailable(f"{kind} {name}: could not be created in {_TRIES} attempts")

    def delete(self, kind: Kind, name: str) -> None:
        """Delete an object; one that does not exist is fine."""
        for attempt in range(_TRIES):
            try:
                response = self._send("DELETE", kind.path(self.namespace, name))
            except GatewayUnavailable:
                _wait(attempt)
                continue
            if response.is_success or response.status_code == 404:
                return
            if response.status_code not in (*_BUSY, 409):
                raise _refused("delete", kind, name, response)
            _wait(attempt, response)
        raise GatewayUnavailable(f"{kind} {name}: could not be deleted in {_TRIES} attempts")

    def _send(self, method: str, path: str, body: Object | None = None) -> httpx.Response:
        headers = {"accept": "application/json"}
        if token := self._access.bearer():
            headers["authorization"] = f"Bearer {token}"
        content = None
        if body is not None:
            headers["content-type"] = "application/json"
            content = json.dumps(body).encode()
        try:
            return self._http.request(method, path, content=content, headers=headers)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise GatewayUnavailable(
                f"{self._access.server}: the API server does not answer: {reason}"
            ) from error


def _object(response: httpx.Response) -> Object:
    try:
        found = response.json()
    except ValueError as error:
        raise GatewayUnavailable(f"the API server did not answer in JSON: {error}") from error
    if not isinstance(found, dict):
        raise GatewayUnavailable("the API server did not answer with an object")
    return found


def _message(response: httpx.Response) -> str:
    """The text of a Kubernetes `Status`, or whatever else was answered."""
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:300]


def _unavailable(response: httpx.Response) -> GatewayUnavailable:
    return GatewayUnavailable(
        f"the API server answers {response.status_code}: {_message(response)}"
    )


def _refused(verb: str, kind: Kind, name: str, response: httpx.Response) -> ClusterRefused:
    fix = ""
    if response.status_code in (401, 403) and "admission webhook" not in _message(response):
        fix = f"; the controller's service account needs the verb {verb!r} on {kind}"
        fix = fix.replace("'read'", "'get'")
    return ClusterRefused(
        f"{kind} {name}: {verb}: {response.status_code}: {_message(response)}{fix}"
    )


def _wait(attempt: int, response: httpx.Response | None = None) -> None:
    """As long as the server asks for, else longer every time; never very long."""
    seconds = _FIRST_WAIT * 2**attempt
    if response is not None:
        try:
            seconds = float(response.headers.get("retry-after", seconds))
        except ValueError:  # A date, which the API server does not send.
            pass
    if attempt + 1 < _TRIES:
        time.sleep(max(0.0, min(seconds, _LONGEST_WAIT)))
