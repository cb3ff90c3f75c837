"""The stores themselves: S3, MLflow's registry, the hub; real servers or what speaks like them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coalmine.modeldir import ModelCard, Tensor, model_digest, write_card
from coalmine.sources import DigestError, Fetched, FetchError

Get = Callable[..., Fetched]
Network = Callable[..., bytes]

pytestmark = pytest.mark.slow  # boto, MLflow: each in a process of its own, seconds to import


def put(s3: Any, prefix: str, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        s3.put_object(Bucket="models", Key=f"{prefix}{name}", Body=content)


def test_s3_a_directory(s3: Any, get: Get, network: Network) -> None:
    put(s3, "dir/3/", {"model.onnx": network(), "deep/er/notes.txt": b"n"})
    put(s3, "dir/30/", {"model.onnx": network(2)})  # a longer prefix, and another model
    found = get("s3://models/dir/3")
    assert {str(p.relative_to(found.path)) for p in found.path.rglob("*") if p.is_file()} == {
        "model.onnx",
        "deep/er/notes.txt",
    }
    assert (found.path / "model.onnx").read_bytes() == network()
    assert (found.name, found.version) == ("3", None)


def test_s3_a_file(s3: Any, get: Get, network: Network) -> None:
    put(s3, "one/", {"fraud.onnx": network()})
    digest = hashlib.sha256(network()).hexdigest()
    found = get(f"s3://models/one/fraud.onnx#sha256={digest}")
    assert (found.path.name, found.path.read_bytes()) == ("fraud.onnx", network())
    s3.delete_object(Bucket="models", Key="one/fraud.onnx")
    assert get(f"s3://models/one/fraud.onnx#sha256={digest}").path == found.path


def test_s3_what_is_not_there(
    s3: Any, get: Get, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    with pytest.raises(FetchError, match="No model found in nothing/here"):
        get("s3://models/nothing/here")
    with pytest.raises(FetchError, match="'nobucket' not found"):
        get("s3://nobucket/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("S3_MAX_ATTEMPTS", "1")
    with pytest.raises(FetchError) as caught:
        get("s3://models/dir/3", attempts=2)
    assert "trying again" in caplog.text, "a server that does not answer may be back in a second"
    assert "coalmine-secret" not in caplog.text + str(caught.value)


def test_s3_keys_cannot_lead_elsewhere(s3: Any, get: Get, network: Network, tmp_path: Path) -> None:
    put(s3, "evil/", {"model.onnx": network(), "../../../../../evil": b"evil"})
    with pytest.raises(FetchError, match=r"refused: .*evil.* is outside of the cache"):
        get("s3://models/evil")
    assert list(tmp_path.rglob("evil")) == []
    assert list((tmp_path / "cache" / "content").iterdir()) == []


def test_s3_the_digest_of_a_model_directory(
    s3: Any, get: Get, network: Network, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.onnx").write_bytes(network())
    tensors = [Tensor(name=name, datatype="FP32", shape=(-1, 2)) for name in ("x", "y1")]
    write_card(made, ModelCard(name="m", inputs=(tensors[0],), outputs=(tensors[1],)))
    put(s3, "card/", {path.name: path.read_bytes() for path in made.iterdir()})
    digest = model_digest(made).removeprefix("sha256:")
    found = get(f"s3://models/card#sha256={digest}").path
    assert model_digest(found) == f"sha256:{digest}"
    with pytest.raises(DigestError):
        get(f"s3://models/card#sha256={'1' * 64}")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's registry in a SQLite file; gives a function that registers a version."""
    from coalmine.retraining._mlflow import load_mlflow

    load_mlflow()
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("fraud")

    def register(files: dict[str, bytes], alias: str | None = None) -> str:
        store = tmp_path / f"artifacts-{len(list(tmp_path.glob('artifacts-*')))}"
        for name, content in files.items():
            (store / "model" / name).parent.mkdir(parents=True, exist_ok=True)
            (store / "model" / name).write_bytes(content)
        made = client.create_model_version("fraud", source=(store / "model").as_uri())
        if alias:
            client.set_registered_model_alias("fraud", alias, made.version)
        return str(made.version)

    return register


def test_mlflow_versions_and_aliases(registry: Any, get: Get, network: Network) -> None:
    registry({"model.onnx": network(1)})
    registry({"model.onnx": network(2)}, alias="champion")
    registry({"model.onnx": network(3)})
    for uri, version in (
        ("models:/fraud/1", "1"),
        ("models:/fraud@champion", "2"),
        ("models:/fraud/latest", "3"),
    ):
        found = get(uri)
        assert (found.name, found.version) == ("fraud", version)
        assert found.path.read_bytes() == network(int(version))
    registry({"model.onnx": network(4)}, alias="champion")
    assert get("models:/fraud@champion").version == "4"


def test_mlflow_a_version_is_copied_once(
    registry: Any, get: Get, network: Network, tmp_path: Path
) -> None:
    registry({"model.onnx": network()}, alias="champion")
    first = get("models:/fraud/1").path
    (tmp_path / "artifacts-0" / "model" / "model.onnx").unlink()
    assert get("models:/fraud/1").path == first
    assert get("models:/fraud@champion").path == first, "the same version, by another name"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/nobody/1", "nobody.*not found"),
        ("models:/fraud/7", "fraud.*7.*not found"),
        ("models:/fraud@nobody", "nobody.*not found"),
        ("runs:/0123456789abcdef0123456789abcdef/model", "not found"),
    ],
)
def test_mlflow_what_is_not_there(registry: Any, get: Get, uri: str, message: str) -> None:
    with pytest.raises(FetchError, match=f"(?i){message}"):
        get(uri)


@pytest.mark.parametrize(
    ("uri", "named"), [("models:/fraud@champion", False), ("runs:/0123456789abcdef/model", True)]
)
def test_mlflow_is_not_made_where_there_is_none(
    get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, named: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if named:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(FetchError, match=r"mlflow\.db does not exist; set MLFLOW_TRACKING_URI"):
        get(uri)
    assert not (tmp_path / "mlflow.db").exists()


def hub(web: Any, files: dict[str, bytes], *, commit: str) -> None:
    """The hub's answers for one repository."""
    siblings = [{"rfilename": name} for name in files]
    info = json.dumps({"id": "acme/fraud", "sha": commit, "siblings": siblings}).encode()
    tree = [{"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in files.items()]
    for revision in ("main", commit):
        web.files[f"/api/models/acme/fraud/revision/{revision}"] = info
        web.files[f"/api/models/acme/fraud/tree/{revision}"] = json.dumps(tree).encode()
        for name, content in files.items():
            web.files[f"/acme/fraud/resolve/{revision}/{name}"] = content
    web.extra = {"x-repo-commit": commit}


def test_the_hub(
    web: Any, get: Get, network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text("hub-token")
    commit = "c" * 40
    hub(web, {"README.md": b"hi", "onnx/model.onnx": network()}, commit=commit)
    whole = get("hf://acme/fraud")
    assert {str(p.relative_to(whole.path)) for p in whole.path.rglob("*") if p.is_file()} == {
        "README.md",
        "onnx/model.onnx",
    }
    assert any("hub-token" in str(headers) for headers in web.headers), "the user's own login"
    one = get("hf://acme/fraud/onnx/model.onnx")
    assert (one.path.name, one.path.read_bytes()) == ("model.onnx", network())
    assert (one.name, whole.name) == ("onnx", "fraud")
    asked = sum(web.asked.values())
    folder = get(f"hf://acme/fraud:{commit}/onnx")
    assert folder.path.read_bytes() == network()
    assert sum(web.asked.values()) > asked
    web.files.clear()
    assert get(f"hf://acme/fraud:{commit}/onnx").path == folder.path, "a commit never changes"
    with pytest.raises(FetchError):
        get("hf://acme/fraud", attempts=1)
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["token"]


def test_google_cloud(
    web: Any, get: Get, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.url)
    objects = {"fraud/3/model.onnx": network(), "fraud/3/labels.txt": b"a"}
    items = [{"name": name, "bucket": "models", "size": str(len(c))} for name, c in objects.items()]
    web.files["/storage/v1/b/models/o"] = json.dumps({"items": items}).encode()
    for name, content in objects.items():
        web.files[f"/download/storage/v1/b/models/o/{name.replace('/', '%2F')}"] = content
    found = get("gs://models/fraud/3")
    assert {p.name: p.read_bytes() for p in found.path.iterdir()} == {
        "model.onnx": network(),
        "labels.txt": b"a",
    }
    assert (found.name, found.version) == ("3", None)
    items.append({"name": "fraud/3/../../../../evil", "bucket": "models", "size": "1"})
    web.files["/storage/v1/b/models/o"] = json.dumps({"items": items}).encode()
    web.files["/download/storage/v1/b/models/o/fraud%2F3%2F..%2F..%2F..%2F..%2Fevil"] = b"e"
    with pytest.raises(FetchError, match=r"refused: .*evil is outside of the cache"):
        get("gs://models/fraud/3")
    web.files["/storage/v1/b/models/o"] = b"{}"
    with pytest.raises(FetchError, match="not found"):
        get("gs://models/fraud/4")
