"""The forms of a model's URI, and how to speak of one without giving its secrets away."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from coalmine.sources._errors import UriError

__all__ = ["SCHEMES", "Source", "check_uri", "is_remote", "parse", "redacted"]

#: Scheme to the form that a URI of it must have.
SCHEMES = {
    "models": "models:/NAME/VERSION or models:/NAME@ALIAS",
    "runs": "runs:/RUN_ID/PATH",
    "s3": "s3://BUCKET/PATH",
    "gs": "gs://BUCKET/PATH",
    "hf": "hf://OWNER/REPOSITORY[:REVISION][/PATH]",
    "http": "http://HOST/PATH/model.onnx (or .tar.gz, .zip)",
    "https": "https://HOST/PATH/model.onnx (or .tar.gz, .zip)",
}
_FORMS = {
    "models": r"models:/(?P<name>[^/@#?]+)(/(?P<version>[^/@#?]+)|@(?P<alias>[^/@#?]+))?",
    "runs": r"runs:/[^/#?]+/[^#?]+",
    "s3": r"s3://[^/#?]+/[^#]+",
    "gs": r"gs://[^/#?]+/[^#]+",
    "hf": r"hf://(?P<owner>[^/:#?]+)/(?P<repo>[^/:#?]+)(:(?P<revision>[^/#?]+))?(/(?P<path>[^#?]+))?",
    "http": r"https?://[^/#?]+/[^#]*[^/#]",
}
_FORMS["https"] = _FORMS["http"]
_DIGEST = re.compile(r"sha256[=:]([0-9a-f]{64})", re.IGNORECASE)
_FILES = (".onnx", ".tar", ".tar.gz", ".tgz", ".zip")


@dataclass(frozen=True, slots=True)
class Source:
    """A URI of another place, taken apart."""

    uri: str
    """Without its fragment; may hold credentials: for logs there is `redacted`."""

    scheme: str
    digest: str | None
    """The sha256 that the content must have, in hexadecimal, if the URI says one."""

    name: str
    """What a model from here is called if nothing else says its name."""

    parts: dict[str, str]
    """The named parts of the form, those that are there."""

    @property
    def is_immutable(self) -> bool:
        """Whether the same URI always means the same content."""
        commit = re.fullmatch(r"[0-9a-f]{40}", self.parts.get("revision", ""))
        return self.digest is not None or commit is not None

    @property
    def is_file(self) -> bool:
        """Whether the URI looks like one of a single file or archive."""
        return urlsplit(self.uri).path.lower().endswith(_FILES)


def is_remote(uri: str) -> bool:
    """Whether the URI has one of our schemes; a path or `file:` URI has not.

    >>> is_remote("s3://bucket/m"), is_remote("models/3"), is_remote("file:models/3")
    (True, False, False)
    """
    scheme, colon, rest = uri.partition(":")
    return bool(colon) and scheme.lower() in SCHEMES and rest.startswith("/")


def parse(uri: str) -> Source:
    """Take a URI apart; UriError says which form it should have."""
    plain, _, fragment = uri.partition("#")
    scheme = plain.partition(":")[0].lower()
    if not is_remote(uri):
        raise UriError(f"{redacted(uri)}: not a URI of a model; allowed: {', '.join(SCHEMES)}")
    digest = None
    if fragment:
        found = _DIGEST.fullmatch(fragment)
        if found is None:
            raise UriError(
                f"{redacted(uri)}: after `#` only sha256= and 64 hexadecimal digits are allowed"
            )
        digest = found[1].lower()
    plain = scheme + plain[len(scheme) :]
    match = re.fullmatch(_FORMS[scheme], plain)
    if match is None:
        raise UriError(f"{redacted(uri)}: should have the form {SCHEMES[scheme]}")
    parts = {key: value for key, value in match.groupdict().items() if value}
    if scheme == "models" and len(parts) == 1 and not parts["name"].startswith("m-"):
        raise UriError(f"{uri}: says no version; write {SCHEMES['models']}")
    if any(segment == ".." for segment in urlsplit(plain).path.split("/")):
        raise UriError(f"{redacted(uri)}: `..` has no meaning in a model's URI")
    return Source(plain, scheme, digest, _name(plain, parts), parts)


def check_uri(uri: str) -> None:
    """UriError unless the URI has one of our schemes, and its form."""
    parse(uri)


def _name(uri: str, parts: dict[str, str]) -> str:
    if uri.startswith("models:"):
        return parts["name"]
    segments = [segment for segment in urlsplit(uri).path.split("/") if segment]
    if not segments:
        return "model"
    last = segments[-1]
    for suffix in sorted(_FILES, key=len, reverse=True):
        last = last.removesuffix(suffix)
    if last == "model" and len(segments) > 1:
        last = segments[-2]
    return re.sub(r"[^A-Za-z0-9._-]", "-", last.partition(":")[0]) or "model"


def redacted(text: str) -> str:
    """A URI, or a message with URIs in it, without passwords, tokens and signatures.

    >>> redacted("https://me:secret@host/model.onnx?X-Amz-Signature=abc")
    'https://host/model.onnx?...'
    """
    text = re.sub(r"(\w+://)[^/@\s'\"]*@", r"\1", text)
    return re.sub(r"\?[^\s'\"#)]+", "?...", text)
