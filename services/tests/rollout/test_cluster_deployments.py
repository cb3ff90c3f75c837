"""Which model a Deployment serves: known only when its status is of the spec as it stands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coalmine.rollout.routers import ClusterAccess, Kubernetes
from coalmine.rollout.routers._deployments import running_model

from .api_server import NAMESPACE, TOKEN, ApiServer, Object
from .controllers import DEPLOYMENT, SOURCE

DONE: Object = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}


@pytest.fixture
def api() -> Iterator[ApiServer]:
    server = ApiServer()
    yield server
    server.close()


def model(api: ApiServer) -> str | None:
    access = ClusterAccess(server=api.url, namespace=NAMESPACE, token=TOKEN)
    client = Kubernetes(access)
    try:
        return running_model(client, "m-predictor")
    finally:
        client.close()


def deploy(api: ApiServer, uri: str, **status: int) -> None:
    template = {"metadata": {"annotations": {SOURCE: uri}}}
    api.put(DEPLOYMENT, "m-predictor", {"spec": {"template": template}})
    generation = api.objects[(DEPLOYMENT, "m-predictor")]["metadata"]["generation"]
    found = {"observedGeneration": generation, **DONE, **status}
    api.put_status(DEPLOYMENT, "m-predictor", found)


def test_a_rollout_that_is_done_names_its_model(api: ApiServer) -> None:
    assert model(api) is None
    deploy(api, "s3://m/3")
    assert model(api) == "s3://m/3"


def test_a_status_of_the_generation_before_names_none(api: ApiServer) -> None:
    """All counts are those of the old pods, and add up: only the generation tells."""
    deploy(api, "s3://m/3")
    deploy(api, "s3://m/4", observedGeneration=1)
    assert model(api) is None
    deploy(api, "s3://m/4")
    assert model(api) == "s3://m/4"


@pytest.mark.parametrize(
    "status",
    [{"replicas": 3}, {"updatedReplicas": 1}, {"availableReplicas": 0}],
    ids=["old pods left", "not all new", "none answers"],
)
def test_pods_of_two_templates_or_none_that_answers_name_none(
    api: ApiServer, status: dict[str, int]
) -> None:
    deploy(api, "s3://m/3", **status)
    assert model(api) is None
