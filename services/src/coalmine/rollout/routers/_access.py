"""How to reach a cluster's API server: from inside a pod, or with a kubeconfig."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from coalmine.rollout.routers._errors import ClusterConfigError

__all__ = ["ClusterAccess", "cluster_access"]

#: Where Kubernetes mounts a pod's own account.
_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAccess:
    """An API server's address, who we are to it, and the namespace that is meant by default."""

    server: str
    namespace: str = "default"
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    """Read again for every request: a pod's token is replaced about every hour."""

    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """None: the system's certificates."""

    def bearer(self) -> str | None:
        """The token to send now, if any."""
        if self.token_file is None:
            return self.token
        try:
            return self.token_file.read_text("utf-8").strip()
        except OSError as error:
            raise ClusterConfigError(f"{self.token_file}: {error.strerror}") from error


def cluster_access(
    environ: Mapping[str, str], *, context: str | None = None, pod: Path = _POD
) -> ClusterAccess:
    """The pod's own account inside a cluster, else the kubeconfig (`KUBECONFIG`, `~/.kube/config`).

    A `KUBECONFIG` that is set is preferred. Raises `ClusterConfigError`.
    """
    named = environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    host = environ.get("KUBERNETES_SERVICE_HOST")
    if host and not named:
        return _in_pod(host, environ.get("KUBERNETES_SERVICE_PORT", "443"), pod)
    path = Path(named) if named else Path(environ.get("HOME", "~")).expanduser() / ".kube/config"
    return _from_kubeconfig(path, context)


def _in_pod(host: str, port: str, pod: Path) -> ClusterAccess:
    if ":" in host:
        host = f"[{host}]"
    authority, namespace = pod / "ca.crt", pod / "namespace"
    try:
        tls = ssl.create_default_context(cafile=str(authority))
        return ClusterAccess(
            server=f"https://{host}:{port}",
            namespace=namespace.read_text("utf-8").strip(),
            token_file=pod / "token",
            tls=tls,
        )
    except OSError as error:
        raise ClusterConfigError(
            f"{pod}: {error}; has the pod a service account (automountServiceAccountToken)?"
        ) from error


def _from_kubeconfig(path: Path, context: str | None) -> ClusterAccess:
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ClusterConfigError(
            f"{path}: {error.strerror}; set KUBECONFIG, or run inside the cluster"
        ) from error
    except yaml.YAMLError as error:
        raise ClusterConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(config, dict):
        raise ClusterConfigError(f"{path}: not a kubeconfig")
    chosen = context or config.get("current-context")
    if not chosen:
        raise ClusterConfigError(f"{path}: current-context: is not set")
    bound = _entry(config, "contexts", str(chosen), path)["context"]
    cluster = _entry(config, "clusters", str(bound.get("cluster")), path)["cluster"]
    user = _entry(config, "users", str(bound["user"]), path)["user"] if bound.get("user") else {}
    for plugin in ("exec", "auth-provider"):
        if plugin in user:
            raise ClusterConfigError(
                f"{path}: users.{bound['user']}.{plugin}: is not supported; use a token or a "
                "client certificate, such as a service account's (kubectl create token)"
            )
    if "server" not in cluster:
        raise ClusterConfigError(f"{path}: clusters.{bound['cluster']}.server: is missing")
    token_file = user.get("tokenFile")
    return ClusterAccess(
        server=str(cluster["server"]).rstrip("/"),
        namespace=bound.get("namespace") or "default",
        token=user.get("token"),
        token_file=path.parent / token_file if token_file else None,
        tls=_tls(cluster, user, path),
    )


def _entry(config: dict[str, Any], kind: str, name: str, path: Path) -> dict[str, Any]:
    for entry in config.get(kind) or ():
        if entry.get("name") == name:
            found: dict[str, Any] = entry
            return found
    raise ClusterConfigError(f"{path}: {kind}: has no {name!r}")


def _tls(cluster: dict[str, Any], user: dict[str, Any], path: Path) -> ssl.SSLContext | None:
    if not str(cluster.get("server", "")).startswith("https"):
        return None
    authority = _content(cluster, "certificate-authority", path)
    try:
        tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
        if cluster.get("insecure-skip-tls-verify"):
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        certificate = _content(user, "client-certificate", path)
        key = _content(user, "client-key", path)
        if certificate and key:
            # `ssl` takes a client's certificate from a file alone.
            with tempfile.NamedTemporaryFile(suffix=".pem") as both:
                both.write(certificate + b"\n" + key)
                both.flush()
                tls.load_cert_chain(both.name)
    except (ssl.SSLError, ValueError) as error:
        raise ClusterConfigError(f"{path}: certificates: {error}") from error
    return tls


def _content(section: dict[str, Any], key: str, path: Path) -> bytes | None:
    """What a kubeconfig holds inline as base64, or names as a file beside it."""
    if inline := section.get(f"{key}-data"):
        try:
            return base64.b64decode(inline, validate=True)
        except binascii.Error as error:
            raise ClusterConfigError(f"{path}: {key}-data: {error}") from error
    if not (named := section.get(key)):
        return None
    try:
        return (path.parent / str(named)).read_bytes()
    except OSError as error:
        raise ClusterConfigError(f"{path}: {key}: {named}: {error.strerror}") from error
