"""The model registry and the lineage, in MLflow.

A model version is the registry's number plus the content digest of its directory. The alias
`champion` is what serves, `challenger` what was registered last and is not yet judged. Aliases have
no compare-and-set, so only the rollout controller moves `champion`.

Importing MLflow takes seconds: it happens at the first use of a registry, not at the import of this
module.
"""

from __future__ import annotations

import fcntl
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from coalmine.modeldir import MODEL_CARD, MODEL_FILE, REFERENCE_FILE, load_card, model_digest
from coalmine.retraining._errors import DigestMismatch, RegistryError, UnknownVersion
from coalmine.retraining._files import file_digest, sync_tree
from coalmine.retraining._lineage import Lineage, log_run
from coalmine.retraining._mlflow import load_mlflow

CHAMPION = "champion"
CHALLENGER = "challenger"
_TAG = "coalmine."
#: Of the versions there are, as many as help who named another.
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """One model version, as the registry knows it."""

    version: str
    digest: str
    aliases: tuple[str, ...] = ()
    mlflow_run: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    """`digest, reference, training_data, git_commit, environment, parity, decision, run, status,
    reason`."""


class MlflowRegistry:
    """The versions of one model. Safe to use from several threads and several processes.

    `artifacts` is where the content of runs is stored, `models` where `materialise` puts the model
    directories that are served.
    """

    def __init__(self, *, tracking_uri: str, artifacts: Path, models: Path, name: str) -> None:
        self._tracking_uri = tracking_uri
        self._artifacts = artifacts
        self._models = models
        self._name = name
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        """The registered model's name."""
        return self._name

    @property
    def tracking_uri(self) -> str:
        """Where MLflow's records are."""
        return self._tracking_uri

    def register(self, directory: Path, *, lineage: Lineage) -> RegisteredVersion:
        """Store a model directory as a new version with its lineage, and alias it `challenger`.

        Registering the same content for the same pipeline run again gives the version that exists,
        so a run that is started a second time does not leave two.
        """
        card = load_card(directory)
        digest = model_digest(directory)
        with self._lock:
            for known in self.versions():
                if known.digest == digest and known.tags.get("run") == lineage.run:
                    self._alias(CHALLENGER, known.version)
                    return self.version(known.version)
            run, source = log_run(
                self._client,
                experiment=self._experiment,
                lineage=lineage,
                directory=directory,
            )
            tags = {
                "digest": digest,
                "training_data": card.training_data or lineage.training_data or "unknown",
                "git_commit": lineage.git_commit,
                "environment": lineage.environment,
                "parity": lineage.parity,
                "decision": lineage.decision,
                "run": lineage.run,
                "status": "registered",
            }
            if (directory / REFERENCE_FILE).exists():
                tags["reference"] = file_digest(directory / REFERENCE_FILE)
            version = str(
                self._client.create_model_version(
                    self._name,
                    source=source,
                    run_id=run,
                    tags={_TAG + key: value for key, value in tags.items()},
                    description=lineage.reason,
                ).version
            )
            self._alias(CHALLENGER, version)
            return self.version(version)

    def record(self, directory: Path, *, lineage: Lineage) -> str:
        """Log a run whose model was rejected, without making a version of it; its MLflow id."""
        with self._lock:
            run, _ = log_run(
                self._client, experiment=self._experiment, lineage=lineage, directory=directory
            )
        return run

    def versions(self) -> tuple[RegisteredVersion, ...]:
        """All versions, oldest first."""
        with self._lock:
            model = self._client.get_registered_model(self._registered)
            found = self._client.search_model_versions(f"name='{self._name}'", max_results=10_000)
        versions = [_version(entry, model.aliases) for entry in found]
        return tuple(sorted(versions, key=lambda v: int(v.version)))

    def version(self, version: str) -> RegisteredVersion:
        """One version; `UnknownVersion` if there is none of that number."""
        load_mlflow()
        from mlflow.exceptions import MlflowException

        with self._lock:
            model = self._client.get_registered_model(self._registered)
            try:
                entry = self._client.get_model_version(self._name, version)
            except MlflowException as error:
                found = self._client.search_model_versions(f"name='{self._name}'")
                numbers = sorted((int(each.version) for each in found), reverse=True)
                newest = ", ".join(map(str, numbers[:_SHOWN])) or "none"
                raise UnknownVersion(
                    f"{self._name} has no version {version!r}; the newest: {newest}"
                ) from error
        return _version(entry, model.aliases)

    def champion(self) -> str | None:
        """The version that serves, or None before the first promotion."""
        return self._aliased(CHAMPION)

    def challenger(self) -> str | None:
        """The version that was registered last and is neither promoted nor rejected."""
        return self._aliased(CHALLENGER)

    def source(self, version: str, *, into: Path) -> Path:
        """Copy a version's directory into `into` and verify it; for a pod without `models`."""
        load_mlflow()
        from mlflow.artifacts import download_artifacts

        known = self.version(version)
        with self._lock:
            uri = self._client.get_model_version_download_uri(self._name, version)
        copied = Path(download_artifacts(artifact_uri=uri, dst_path=str(into)))
        _verify(copied, known, self._name)
        return copied

    def materialise(self, version: str) -> Path:
        """The version's directory under `models`: copied whole or not at all, and verified."""
        known = self.version(version)
        target = self._models / version
        if _is_intact(target, known):
            return target
        self._models.mkdir(parents=True, exist_ok=True)
        scratch = self._models / f".{version}.{uuid.uuid4().hex}"
        scratch.mkdir()
        try:
            copied = self.source(version, into=scratch)
            sync_tree(copied)
            with self._lock:
                if _is_intact(target, known):  # another thread was quicker
                    return target
                if target.exists():
                    target.rename(scratch / "damaged")
                copied.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return target

    def promote(self, version: str) -> None:
        """Move the alias `champion` to the version."""
        known = self.version(version)
        with self._lock:
            self._alias(CHAMPION, known.version)
            self._tag(version, status="promoted")
            self._drop_challenger(version)

    def reject(self, version: str, reason: str) -> None:
        """Note why a version was not promoted."""
        known = self.version(version)
        with self._lock:
            self._tag(known.version, status="rejected", reason=reason[:4000])
            self._drop_challenger(version)

    def tag(self, version: str, **tags: str) -> None:
        """Add facts to a version."""
        known = self.version(version)
        with self._lock:
            self._tag(known.version, **tags)

    def put_reference(self, version: str, reference: Path) -> RegisteredVersion:
        """Store a file as the version's `reference.parquet`, in place of the one it may have.

        What was copied out by `materialise` is replaced the next time. Killed in between, the
        version does not verify until this is done again.
        """
        known = self.version(version)
        if reference.name != REFERENCE_FILE:
            raise RegistryError(f"{reference}: a reference is called {REFERENCE_FILE}")
        with self._lock:
            self._client.log_artifact(known.mlflow_run, str(reference), "model")
            self._tag(known.version, reference=file_digest(reference))
        return self.version(known.version)

    # -- MLflow underneath ------------------------------------------------------------------------

    @cached_property
    def _client(self) -> Any:
        with _one_at_a_time(self._tracking_uri):
            load_mlflow()
            from mlflow.tracking import MlflowClient

            client = MlflowClient(tracking_uri=self._tracking_uri, registry_uri=self._tracking_uri)
            client.search_registered_models(max_results=1)
        return client

    @cached_property
    def _registered(self) -> str:
        load_mlflow()
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self._name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise RegistryError(f"cannot register {self._name}: {error.message}") from error
        return self._name

    @cached_property
    def _experiment(self) -> str:
        load_mlflow()
        from mlflow.exceptions import MlflowException

        registered = self._registered
        location = (self._artifacts / registered).absolute()
        try:
            return str(
                self._client.create_experiment(registered, artifact_location=location.as_uri())
            )
        except MlflowException as error:
            found = self._client.get_experiment_by_name(registered)
            if found is None:
                raise RegistryError(f"no experiment {registered}: {error.message}") from error
            return str(found.experiment_id)

    def _aliased(self, alias: str) -> str | None:
        with self._lock:
            aliases = self._client.get_registered_model(self._registered).aliases
        return str(aliases[alias]) if alias in aliases else None

    def _alias(self, alias: str, version: str) -> None:
        self._client.set_registered_model_alias(self._registered, alias, version)

    def _drop_challenger(self, version: str) -> None:
        if self._aliased(CHALLENGER) == version:
            self._client.delete_registered_model_alias(self._name, CHALLENGER)

    def _tag(self, version: str, **tags: str) -> None:
        for key, value in tags.items():
            self._client.set_model_version_tag(self._name, version, _TAG + key, value)


def local_registry(name: str, *, state: Path) -> MlflowRegistry:
    """The registry in a state directory: `mlflow.db`, `mlartifacts/` and `models/` there."""
    state = state.absolute()
    return MlflowRegistry(
        tracking_uri=f"sqlite:///{state / 'mlflow.db'}",
        artifacts=state / "mlartifacts",
        models=state / "models",
        name=name,
    )


def register_directory(
    registry: MlflowRegistry, directory: Path, *, run: str, reason: str
) -> RegisteredVersion:
    """Register a model directory that no pipeline made; `run` makes a repeat idempotent.

    Nothing has judged such a model: it has no parity report and no decision, and reaches the
    traffic only through a rollout.
    """
    for name in (MODEL_FILE, MODEL_CARD):
        if not (directory / name).is_file():
            raise RegistryError(f"{directory / name}: missing; a model directory needs it")
    card = load_card(directory)
    lineage = Lineage(
        run=run,
        reason=reason,
        decision="none",
        parity="unknown",
        metrics=card.metrics,
        training_data=card.training_data,
    )
    return registry.register(directory, lineage=lineage)


def _version(entry: Any, aliases: Mapping[str, str]) -> RegisteredVersion:
    tags = {
        key.removeprefix(_TAG): value for key, value in entry.tags.items() if key.startswith(_TAG)
    }
    version = str(entry.version)
    return RegisteredVersion(
        version=version,
        digest=tags.get("digest", ""),
        aliases=tuple(sorted(alias for alias, of in aliases.items() if str(of) == version)),
        mlflow_run=entry.run_id,
        tags=tags,
    )


def _verify(directory: Path, known: RegisteredVersion, name: str) -> None:
    if not _is_intact(directory, known):
        raise DigestMismatch(
            f"{name} version {known.version}: the stored content is not what was registered "
            f"({known.digest})"
        )


def _is_intact(directory: Path, known: RegisteredVersion) -> bool:
    try:
        if model_digest(directory) != known.digest:
            return False
        reference = known.tags.get("reference")
        return reference is None or file_digest(directory / REFERENCE_FILE) == reference
    except FileNotFoundError:
        return False


_FIRST_USE = threading.Lock()


@contextmanager
def _one_at_a_time(tracking_uri: str) -> Iterator[None]:
    """For the first use of a database, which creates its tables, badly if two do it at once."""
    with _FIRST_USE:
        if not tracking_uri.startswith("sqlite:///"):
            yield
            return
        path = Path(tracking_uri.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
