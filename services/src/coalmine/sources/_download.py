"""`python -m coalmine.sources._download PLACE CACHE`: one download, in a process of its own.

Reads a `Source` as JSON from standard input, downloads into PLACE/model, and writes
PLACE/result.json: `{"model", "version", "identity"}`, `{"cached"}` if the cache has it already, or
`{"error", "kind", "permanent"}`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coalmine.sources._cache import Cache
from coalmine.sources._guard import OutsideError, confine
from coalmine.sources._uri import Source, redacted

_PR_SET_PDEATHSIG = 1
#: What the libraries say of what will not be different in a second.
_PERMANENT = re.compile(
    r"not found|no such|does not exist|authentication failed|access denied|forbidden|unauthorized"
    r"|invalid|cannot be empty|no model found|did not respond with|no filename|file format is not"
    r"|refused:|\[(301|4(?!08|29)\d\d)\]|status code 4(?!08|29)\d\d|RESOURCE_DOES_NOT_EXIST",
    re.IGNORECASE,
)
_SECRETS = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|-headers$", re.IGNORECASE)


def main() -> int:
    """Run the download; 0 also if it failed, which the result says."""
    place, root = Path(sys.argv[1]), Path(sys.argv[2])
    _die_with_parent()
    source = Source(**json.load(sys.stdin))
    # The libraries log whole URIs, signatures and all.
    logging.disable(logging.CRITICAL)
    try:
        model = place / "model"
        model.mkdir()
        if source.scheme in ("models", "runs"):
            result = _from_mlflow(source, model, root)
        else:
            result = _from_storage(source, model, place)
    except ImportError as error:
        extra = "mlflow" if source.scheme in ("models", "runs") else "storage"
        needs = f"needs `pip install 'coalmine[{extra}]'` ({error})"
        result = {"error": needs, "kind": "extra", "permanent": "yes"}
    except Exception as error:  # whatever a storage library raises
        result = _failure(error)
    (place / "result.json").write_text(json.dumps(result))
    return 0


def _die_with_parent() -> None:
    """A server that is killed leaves no download behind that nobody waits for (Linux only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _from_storage(source: Source, model: Path, place: Path) -> dict[str, Any]:
    from kserve_storage import Storage

    scratch = place / "tmp"
    # The hub's library keeps locks and logs at home; the user's token is read from there.
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    os.environ.setdefault("HF_TOKEN_PATH", str(home / "token"))
    os.environ.update(
        HF_HOME=str(scratch / "hf"), HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1"
    )
    confine(place, Path.home() / ".aws" / "sso" / "cache")  # where AWS renews a login
    uri = source.uri
    only = None
    if source.scheme == "hf":
        path = source.parts.get("path", "").rstrip("/")
        uri = uri.removesuffix("/").removesuffix(f"/{path}") if path else uri
        only = [path, f"{path}/*"] if path else None
    elif source.scheme == "s3" and not source.is_file:
        # As a prefix, `models/3` would match `models/30` too; of Google's the library sees to that.
        uri = f"{uri.rstrip('/')}/"
    Storage.download(uri, str(model), allow_patterns=only)
    # What the hub's library keeps beside the files it downloads.
    shutil.rmtree(model / ".cache", ignore_errors=True)
    found = model / source.parts["path"].rstrip("/") if only else model
    if not found.exists():
        raise FileNotFoundError("no such file in the repository")
    if found.is_file():
        alone = place / "alone"
        alone.mkdir()
        found.rename(alone / found.name)
        found = alone
    return {"model": str(found.relative_to(place)), "version": None, "identity": None}


def _from_mlflow(source: Source, model: Path, root: Path) -> dict[str, Any]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow
    from mlflow.artifacts import download_artifacts
    from mlflow.tracking import MlflowClient

    version = identity = None
    uri = source.uri
    _require_store(
        mlflow.get_registry_uri() if source.scheme == "models" else mlflow.get_tracking_uri()
    )
    if source.scheme == "models" and len(source.parts) > 1:
        client = MlflowClient()
        name = source.parts["name"]
        registered = _registered(client, name, source.parts)
        version = str(registered.version)
        # A version never changes; a registry may be replaced by another with the same numbers.
        identity = "|".join(
            str(part)
            for part in (
                redacted(client._registry_uri or ""),
                name,
                version,
                registered.creation_timestamp,
                registered.run_id,
                registered.source,
            )
        )
        if Cache(root).find(identity) is not None:
            return {"cached": identity}
        uri = client.get_model_version_download_uri(name, version)
    found = Path(download_artifacts(artifact_uri=uri, dst_path=str(model)))
    if found.is_file():
        found = found.parent
    return {
        "model": str(found.resolve().relative_to(model.parent.resolve())),
        "version": version,
        "identity": identity,
    }


def _require_store(uri: str) -> None:
    """Asked about a SQLite file that is not there, MLflow makes one, and finds nothing in it."""
    scheme, _, rest = uri.partition(":///")
    file = Path(rest.partition("?")[0])
    if scheme.startswith("sqlite") and not file.exists():
        said = "set MLFLOW_TRACKING_URI to where MLflow is"
        raise FileNotFoundError(f"there is no MLflow: {file.absolute()} does not exist; {said}")


def _registered(client: Any, name: str, parts: dict[str, str]) -> Any:
    if "alias" in parts:
        return client.get_model_version_by_alias(name, parts["alias"])
    if parts["version"] != "latest":
        return client.get_model_version(name, parts["version"])
    found = client.search_model_versions(f"name='{name}'")
    if not found:
        raise FileNotFoundError(f"model {name} not found in the registry")
    return max(found, key=lambda entry: int(entry.version))


def _failure(error: BaseException) -> dict[str, Any]:
    chain = list(_chain(error))
    text = " ".join(str(part) for part in chain)
    if any(isinstance(e, OSError) and e.errno == errno.ENOSPC for e in chain) or (
        "No space left on device" in text
    ):
        problem = "no space left on the disk of the model cache; --model-cache names another place"
        return {"error": problem, "kind": "cache", "permanent": "yes"}
    outside = any(isinstance(part, OutsideError) for part in chain)
    said = _without_secrets(str(error) or type(error).__name__)
    permanent = outside or _PERMANENT.search(said) is not None
    return {"error": said, "kind": "fetch", "permanent": "yes" if permanent else ""}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _without_secrets(text: str) -> str:
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRETS.search(name):
            text = text.replace(value, "...")
    return " ".join(redacted(text).split())[:1000]


if __name__ == "__main__":
    sys.exit(main())
