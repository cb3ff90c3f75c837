"""What can go wrong with a model's source; no message holds a credential.

SourceError
├── UriError            not a URI we know; the message says what it should be
├── MissingExtraError   a library for this kind of source is not installed
├── FetchError          what is behind the URI cannot be had
├── DigestError         it is not what it should be: incomplete, or another content
└── CacheError          the cache cannot hold it: no space, no permission
"""

from __future__ import annotations

__all__ = [
    "CacheError",
    "DigestError",
    "FetchError",
    "MissingExtraError",
    "SourceError",
    "UriError",
]


class SourceError(Exception):
    """The root of the tree."""


class UriError(SourceError, ValueError):
    """A URI that names no source."""


class MissingExtraError(SourceError):
    """A library is missing; the message names the extra that brings it."""


class FetchError(SourceError):
    """What is behind the URI cannot be had."""


class DigestError(SourceError):
    """What was fetched is incomplete, or another content than was asked for."""


class CacheError(SourceError):
    """The cache cannot hold it."""
