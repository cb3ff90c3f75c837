"""The registry, on a real MLflow with its database in a file."""

from __future__ import annotations

import hashlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coalmine.modeldir import MODEL_FILE, model_digest
from coalmine.retraining import (
    DigestMismatch,
    Lineage,
    MlflowRegistry,
    RegistryError,
    UnknownVersion,
    local_registry,
    register_directory,
)

from .conftest import NAME, model_directory

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


def lineage(run: str = "run-7", **changes: object) -> Lineage:
    settings: dict[str, object] = {
        "run": run,
        "reason": "accuracy is lost",
        "decision": "promote",
        "reasons": ("better", "and nowhere worse"),
        "parity": "passed",
        "params": {"rounds": 40},
        "metrics": {"accuracy": 0.96},
        "training_data": "sha256:" + "ab" * 32,
        "data_source": "data/abab.parquet",
    }
    return Lineage(**{**settings, **changes})  # type: ignore[arg-type] # settings by name


def test_a_version_shows_where_it_comes_from(
    registry: MlflowRegistry, state: Path, tmp_path: Path
) -> None:
    directory = model_directory(tmp_path / "second", content=b"second")
    parity = tmp_path / "parity.json"
    parity.write_text("{}", encoding="utf-8")
    known = registry.register(directory, lineage=lineage(reports={"parity": parity}))
    assert known.version == "2"
    assert known.aliases == ("challenger",)
    assert known.digest == model_digest(directory)
    assert registry.champion() == "1"
    assert known.tags["training_data"] == "sha256:" + "ab" * 32
    assert known.tags["git_commit"]
    assert (known.tags["parity"], known.tags["decision"]) == ("passed", "promote")

    from mlflow.tracking import MlflowClient  # as a person's own MLflow sees it

    client = MlflowClient(registry.tracking_uri, registry.tracking_uri)
    run = client.get_run(client.get_model_version_by_alias(NAME, "challenger").run_id)
    assert run.data.params == {"rounds": "40"}
    assert run.data.metrics == {"accuracy": 0.96}
    assert run.info.status == "FINISHED"
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.digest == ("ab" * 32)[:36]
    kept = {item.path for item in client.list_artifacts(run.info.run_id, "model")}
    assert kept == {"model/model.onnx", "model/model.yaml", "model/reference.parquet"}
    reports = {item.path for item in client.list_artifacts(run.info.run_id, "reports")}
    assert reports == {"reports/environment.txt", "reports/parity"}
    kept_list = client.download_artifacts(run.info.run_id, "reports/environment.txt", str(tmp_path))
    installed = Path(kept_list).read_text(encoding="utf-8")
    assert "lightgbm==" in installed
    digest = hashlib.sha256(installed.rstrip("\n").encode()).hexdigest()
    assert known.tags["environment"] == run.data.tags["coalmine.environment"] == f"sha256:{digest}"
    assert run.data.tags["coalmine.reasons"] == "better; and nowhere worse"


def test_registering_again_for_the_same_run_changes_nothing(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    directory = model_directory(tmp_path / "second", content=b"second")
    first = registry.register(directory, lineage=lineage())
    assert registry.register(directory, lineage=lineage()) == first
    other = registry.register(directory, lineage=lineage("run-8"))
    assert other.version == "3"
    assert [v.version for v in registry.versions()] == ["1", "2", "3"]


def test_promotion_and_rejection_move_the_aliases(registry: MlflowRegistry, tmp_path: Path) -> None:
    for content in (b"second", b"third"):
        directory = model_directory(tmp_path / content.decode(), content=content)
        registry.register(directory, lineage=lineage(content.decode()))
    registry.reject("3", "slower")
    assert registry.challenger() is None
    assert registry.champion() == "1"
    rejected = registry.version("3")
    assert (rejected.tags["status"], rejected.tags["reason"]) == ("rejected", "slower")
    registry.promote("2")
    registry.promote("2")
    assert registry.champion() == "2"
    assert registry.version("2").aliases == ("champion",)
    for call in (registry.promote, registry.materialise, registry.version):
        with pytest.raises(UnknownVersion, match=r"'9'; the newest: 3, 2, 1$"):
            call("9")


def test_a_directory_is_materialised_whole_or_not_at_all(
    registry: MlflowRegistry, state: Path
) -> None:
    target = registry.materialise("1")
    assert target == state / "models" / "1"
    assert {path.name for path in target.iterdir()} == {
        "model.onnx",
        "model.yaml",
        "reference.parquet",
    }
    before = (target / MODEL_FILE).stat().st_mtime_ns
    assert registry.materialise("1") == target
    assert (target / MODEL_FILE).stat().st_mtime_ns == before  # not copied again
    (target / MODEL_FILE).write_bytes(b"bit rot")
    (target / "reference.parquet").unlink()
    registry.materialise("1")
    assert (target / MODEL_FILE).read_bytes() == b"network"
    assert [path.name for path in (state / "models").iterdir()] == ["1"]  # nothing left over


def test_what_was_stored_is_verified(
    registry: MlflowRegistry, tmp_path: Path, state: Path, first_champion: Path
) -> None:
    directory = model_directory(tmp_path / "second", content=b"to be changed")
    registry.register(directory, lineage=lineage())
    (stored,) = (
        path
        for path in (first_champion / "mlartifacts").rglob(MODEL_FILE)
        if path.read_bytes() == b"to be changed"
    )
    stored.write_bytes(b"another network")
    with pytest.raises(DigestMismatch, match="version 2"):
        registry.materialise("2")
    assert not (state / "models" / "2").exists()


def test_many_threads_and_two_registries_agree(state: Path) -> None:
    """As the retrainer and the rollout controller have one each."""
    registries = [local_registry(NAME, state=state) for _ in range(2)]
    problems: list[BaseException] = []

    def use(number: int) -> None:
        try:
            for _ in range(3):
                registries[number % 2].materialise("1")
                assert registries[number % 2].champion() == "1"
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_new_registry_has_no_champion_and_may_be_asked_by_many(tmp_path: Path) -> None:
    """The first use creates the tables: two control services start at the same moment."""
    state = tmp_path / "deep" / "state"
    with ThreadPoolExecutor(4) as pool:
        registries = [local_registry("new", state=state) for _ in range(4)]
        assert list(pool.map(lambda registry: registry.champion(), registries)) == [None] * 4
        assert list(pool.map(lambda registry: registry.versions(), registries)) == [()] * 4


def test_a_directory_that_no_pipeline_made_can_be_registered(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    directory = model_directory(tmp_path / "broken", content=b"permuted")
    known = register_directory(registry, directory, run="demo", reason="a broken model")
    assert (known.version, known.tags["parity"], known.tags["decision"]) == ("2", "unknown", "none")
    shutil.rmtree(tmp_path / "broken")
    assert (registry.materialise("2") / MODEL_FILE).read_bytes() == b"permuted"
    with pytest.raises(RegistryError, match=r"model\.onnx: missing"):
        register_directory(registry, tmp_path, run="demo", reason="nothing there")


def test_a_rejected_candidate_leaves_a_run_and_no_version(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    directory = model_directory(tmp_path / "worse", content=b"worse")
    identifier = registry.record(directory, lineage=lineage(decision="reject"))
    assert [v.version for v in registry.versions()] == ["1"]
    from mlflow.tracking import MlflowClient

    run = MlflowClient(registry.tracking_uri).get_run(identifier)
    assert run.data.tags["coalmine.decision"] == "reject"
