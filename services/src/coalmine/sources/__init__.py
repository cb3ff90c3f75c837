"""Where models come from: a URI becomes a directory or file on this machine, whole and checked.

`fetch("s3://bucket/models/3")` gives what is behind `models:/`, `runs:/` (MLflow), `s3://`, `gs://`,
`hf://` and `http(s)://` (KServe's storage library, the extra `storage`); a path or `file:` URI is
given back as it is. Downloads happen in a process of their own, land in a cache by their content,
and are never taken for whole when they are not.
"""

from __future__ import annotations

from coalmine.sources._cache import default_cache
from coalmine.sources._errors import (
    CacheError,
    DigestError,
    FetchError,
    MissingExtraError,
    SourceError,
    UriError,
)
from coalmine.sources._fetch import Fetched, fetch
from coalmine.sources._onnx_file import external_files
from coalmine.sources._uri import SCHEMES, check_uri, is_remote, redacted

__all__ = [
    "SCHEMES",
    "CacheError",
    "DigestError",
    "FetchError",
    "Fetched",
    "MissingExtraError",
    "SourceError",
    "UriError",
    "check_uri",
    "default_cache",
    "external_files",
    "fetch",
    "is_remote",
    "redacted",
]
