"""Where a transformer's predictor is; light to import, for options and command lines."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from coalmine.serving._errors import StartupError

__all__ = ["PredictorOptions", "PredictorProtocol"]

PredictorProtocol = Literal["v1", "v2", "grpc-v2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorOptions:
    """Where the predictor is and how to speak to it."""

    host: str
    """HOST, HOST:PORT, or HOST:PORT/PATH for REST."""

    protocol: PredictorProtocol = "v2"
    ssl: bool = False
    ca: str | None = None
    """File of the authorities that are trusted with TLS; None: what REQUESTS_CA_BUNDLE names (as
    KServe's controller sets it), or SSL_CERT_FILE, or the system's."""

    timeout: float = 60.0
    """Seconds that one request may take there; a client's own deadline may be shorter."""

    retries: int = 0
    """How often a request is sent again that the predictor cannot have begun: it refused the
    connection, or answered 503 (UNAVAILABLE)."""

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        protocol: str | None = None,
        ca: str | None = None,
        timeout: float = 60.0,
        retries: int = 0,
    ) -> PredictorOptions:
        """Options for `http://HOST:PORT`, https, grpc or grpcs; StartupError for anything else.

        >>> PredictorOptions.from_url("grpc://predictor:8081").protocol
        'grpc-v2'
        """
        parts = urlsplit(url)
        grpc = parts.scheme in ("grpc", "grpcs")
        if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.netloc:
            raise StartupError(
                f"--predictor {url}: must be http://HOST:PORT, https://, grpc:// or grpcs://"
            )
        if grpc and (parts.path.strip("/") or parts.query):
            raise StartupError(f"--predictor {url}: gRPC has no path")
        spoken = protocol or ("grpc-v2" if grpc else "v2")
        if spoken not in get_args(PredictorProtocol):
            allowed = ", ".join(get_args(PredictorProtocol))
            raise StartupError(f"--predictor-protocol {spoken}: allowed: {allowed}")
        if grpc != (spoken == "grpc-v2"):
            raise StartupError(f"--predictor {url} and --predictor-protocol {spoken} disagree")
        return cls(
            host=parts.netloc + parts.path.rstrip("/"),
            protocol=spoken,  # type: ignore[arg-type] # it was just compared with them
            ssl=parts.scheme in ("https", "grpcs"),
            ca=ca,
            timeout=timeout,
            retries=retries,
        )

    @property
    def authorities(self) -> str | None:
        """The file of `ca`, or of the environment; None: the system's authorities."""
        variables = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
        return self.ca or next(filter(None, map(os.environ.get, variables)), None)

    def check_authorities(self) -> None:
        """StartupError if TLS is asked for, and the file has no certificates."""
        file = self.authorities
        if not self.ssl or file is None:
            return
        try:
            ssl.create_default_context(cafile=file)
        except OSError as error:  # an SSLError is one, without words for a user
            reason = "no certificates in it" if isinstance(error, ssl.SSLError) else error.strerror
            raise StartupError(f"authorities of the predictor, {file}: {reason}") from error

    @property
    def url(self) -> str:
        """For messages."""
        scheme = "grpc" if self.protocol == "grpc-v2" else "http"
        return f"{scheme}{'s' if self.ssl else ''}://{self.host}"
