"""Reaching a cluster: kubeconfigs, a pod's own account, and the service that uses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from coalmine.arms import Arm
from coalmine.gateway import GatewayUnavailable
from coalmine.rollout.routers import (
    ClusterAccess,
    ClusterConfigError,
    ClusterRefused,
    KServeServerless,
    Kubernetes,
    cluster_access,
    open_data_plane,
)
from coalmine.rollout.routers._kubernetes import CONFIG_MAP
from coalmine.spec import ClusterSpec, ModelSpec, RolloutSpec, ServiceSpec
from coalmine.stack import Ports, StateDirectory, Surroundings, build_service
from coalmine.stack._errors import StackError

from .api_server import NAMESPACE, TOKEN
from .data_planes import NAME, TEMPLATE, Serverless, model, uri


def kubeconfig(path: Path, *, user: dict[str, Any], **cluster: Any) -> Path:
    config = {
        "current-context": "here",
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}},
            {"name": "there", "context": {"cluster": "c"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


def https(**cluster: str) -> dict[str, Any]:
    return {"name": "c", "cluster": {"server": "https://k", **cluster}}


def test_a_kubeconfig_with_a_token(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", user={"token": "abc"}, server="https://k:6443/")
    found = cluster_access({"KUBECONFIG": str(path), "KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert (found.server, found.namespace, found.bearer()) == ("https://k:6443", NAMESPACE, "abc")
    assert found.tls is not None
    assert "abc" not in repr(found)
    other = cluster_access({"KUBECONFIG": str(path)}, context="there")
    assert (other.namespace, other.bearer()) == ("default", None)


def test_the_kubeconfig_of_the_home_directory(tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    kubeconfig(tmp_path / ".kube/config", user={"token": "abc"})
    assert cluster_access({"HOME": str(tmp_path)}).bearer() == "abc"


def test_a_token_file_is_read_again_when_it_was_replaced(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    path = kubeconfig(tmp_path / "config", user={"tokenFile": "token"})
    found = cluster_access({"KUBECONFIG": str(path)})
    assert found.bearer() == "first"
    (tmp_path / "token").write_text("second\n")
    assert found.bearer() == "second"
    (tmp_path / "token").unlink()
    with pytest.raises(ClusterConfigError, match="token: No such file"):
        found.bearer()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"current-context": None}, "current-context: is not set"),
        ({"current-context": "x"}, "contexts: has no 'x'"),
        ({"clusters": []}, "clusters: has no 'c'"),
        ({"users": None}, "users: has no 'u'"),
        ({"clusters": [{"name": "c", "cluster": {}}]}, r"clusters\.c\.server: is missing"),
        (
            {"users": [{"name": "u", "user": {"exec": {"command": "aws"}}}]},
            r"users\.u\.exec: is not supported; use a token",
        ),
        (
            {"clusters": [https(**{"certificate-authority-data": "?"})]},
            "certificate-authority-data: ",
        ),
        (
            {"clusters": [https(**{"certificate-authority": "ca"})]},
            "certificate-authority: ca: No such file",
        ),
        (
            {"clusters": [https(**{"certificate-authority-data": "eA=="})]},
            "certificates: ",
        ),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_names_the_key(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = kubeconfig(tmp_path / "config", user={"token": "abc"})
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(ClusterConfigError, match=f"config: {message}"):
        cluster_access({"KUBECONFIG": str(path)})


@pytest.mark.parametrize("content", [None, "[", "- 1"])
def test_no_kubeconfig_at_all(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ClusterConfigError, match=str(path)):
        cluster_access({"KUBECONFIG": str(path)})


def test_the_account_of_a_pod(tmp_path: Path) -> None:
    for name, content in (("token", "t1"), ("namespace", "models"), ("ca.crt", "")):
        (tmp_path / name).write_text(content)
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    with pytest.raises(ClusterConfigError, match="service account"):
        cluster_access(environ, pod=tmp_path)
    import certifi

    (tmp_path / "ca.crt").write_text(Path(certifi.where()).read_text("utf-8"), "utf-8")
    found = cluster_access(environ, pod=tmp_path)
    assert (found.server, found.namespace) == ("https://[fd00::1]:6443", "models")
    assert found.bearer() == "t1"


def test_an_api_server_that_does_not_answer_is_named() -> None:
    api = Kubernetes(ClusterAccess(server="http://127.0.0.1:1"), timeout=0.2)
    with pytest.raises(GatewayUnavailable, match=r"http://127\.0\.0\.1:1: .* does not answer"):
        api.get(CONFIG_MAP, "x")
    api.close()


# -- the service -----------------------------------------------------------------------------------


def service(**cluster: Any) -> ServiceSpec:
    given = {"router": "kserve-serverless", "model_uri": TEMPLATE, **cluster}
    return ServiceSpec(
        name=NAME,
        model=ModelSpec(uri="models:/m@champion"),
        rollout=RolloutSpec(shadow=None),
        cluster=ClusterSpec(**given),
    )


@pytest.fixture
def plane() -> Iterator[Serverless]:
    made = Serverless()
    made.deploy()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model_uri": "s3://m"}, r"needs \{version\}"),
        ({"model_uri": "s3://{where}/{version}"}, "found .*where"),
        ({"model_uri": "s3://{version"}, "model_uri: "),
        ({"http_route": "m"}, "belongs to `router: httproute`"),
        ({"router": "istio"}, "kserve-serverless"),
    ],
)
def test_a_cluster_section_that_is_wrong_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        service(**given)


def test_what_the_data_plane_cannot_do_is_said_at_the_start(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", user={"token": TOKEN})
    environ = {"KUBECONFIG": str(path)}
    mirrored = service().model_copy(update={"rollout": RolloutSpec()})
    with pytest.raises(ClusterConfigError, match=r"rollout\.shadow: .* cannot mirror"):
        open_data_plane(mirrored, environ=environ)
    beside = RolloutSpec(shadow=None, baseline=True)
    without = service(router="kserve-serverless").model_copy(update={"rollout": beside})
    with pytest.raises(ClusterConfigError, match=r"rollout\.baseline: kserve-serverless has no"):
        open_data_plane(without, environ=environ)
    with pytest.raises(ClusterConfigError, match="no such section"):
        open_data_plane(service().model_copy(update={"cluster": None}), environ=environ)


async def test_the_rollout_service_acts_upon_the_cluster(plane: Serverless, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", user={"token": TOKEN}, server=plane.cluster.api.url)
    around = Surroundings(
        service=service(),
        state=StateDirectory(tmp_path / "state"),
        ports=Ports(8080),
        cluster=True,
        environ={"KUBECONFIG": str(path)},
    )
    around.state.create()
    async with AsyncExitStack() as resources:
        app = await build_service("rollout", around, resources)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://rollout") as client:
            weights = (await client.get("/v1/weights")).json()
            arms = (await client.get("/v1/arms")).json()["arms"]
    assert weights["weights"] == {"stable": 100}
    assert {arm: shown["version"] for arm, shown in arms.items()} == {"stable": "3", "canary": "4"}
    assert all(shown["ready"] for shown in arms.values())


async def test_a_cluster_that_cannot_be_reached_stops_the_service(tmp_path: Path) -> None:
    around = Surroundings(
        service=service(),
        state=StateDirectory(tmp_path),
        ports=Ports(8080),
        cluster=True,
        environ={"KUBECONFIG": str(tmp_path / "none")},
    )
    async with AsyncExitStack() as resources:
        with pytest.raises(StackError, match="set KUBECONFIG"):
            await build_service("rollout", around, resources)


async def test_names_and_namespace_are_those_of_the_service_file(
    plane: Serverless, tmp_path: Path
) -> None:
    path = kubeconfig(tmp_path / "config", user={"token": TOKEN}, server=plane.cluster.api.url)
    given = service(inference_service="other", namespace=NAMESPACE)
    async with open_data_plane(given, environ={"KUBECONFIG": str(path)}) as found:
        assert isinstance(found, KServeServerless)
        with pytest.raises(ClusterRefused, match="there is no other in namespace models"):
            found.deploy(Arm.STABLE, model("3"))
    assert uri("3") in plane.cluster.shares(NAME)
