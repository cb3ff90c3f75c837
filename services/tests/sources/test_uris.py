"""The forms of URIs, and that nobody's password gets into a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from coalmine.sources import CacheError, UriError, fetch, is_remote, redacted
from coalmine.sources._uri import parse

SHA = "a" * 64


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("models:/fraud/3", "fraud"),
        ("models:/fraud@champion", "fraud"),
        ("models:/fraud/latest", "fraud"),
        ("models:/m-0123abc", "m-0123abc"),
        ("runs:/0123/artifacts/model", "artifacts"),
        ("s3://bucket/models/fraud", "fraud"),
        ("s3://bucket/fraud/model.onnx", "fraud"),
        ("gs://bucket/fraud.onnx", "fraud"),
        ("hf://owner/repo", "repo"),
        ("hf://owner/repo:v1/onnx/model.onnx", "onnx"),
        ("https://host/a/fraud.tar.gz?signature=1", "fraud"),
        (f"s3://bucket/fraud#sha256={SHA}", "fraud"),
        (f"s3://bucket/fraud#sha256:{SHA.upper()}", "fraud"),
    ],
)
def test_a_uri_says_a_name(uri: str, name: str) -> None:
    assert is_remote(uri)
    assert parse(uri).name == name


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/fraud", "says no version; write models:/NAME/VERSION or models:/NAME@ALIAS"),
        ("models:/", "should have the form models:/NAME"),
        ("models:/a/b/c", "should have the form models:/NAME"),
        ("runs:/0123", "should have the form runs:/RUN_ID/PATH"),
        ("s3://bucket", "should have the form s3://BUCKET/PATH"),
        ("gs:///x", "should have the form gs://BUCKET/PATH"),
        ("hf://owner", "should have the form hf://OWNER/REPOSITORY"),
        ("https://host/", "should have the form http"),
        ("s3://bucket/a/../../b", "`..` has no meaning"),
        ("s3://bucket/a#sha256=12", "after `#` only sha256="),
        ("s3://bucket/a#latest", "after `#` only sha256="),
        ("ftp://host/model.onnx", "not a URI of a model"),
        ("https//host/x://", "not a URI of a model"),
        ("file://elsewhere/model", "names another machine"),
    ],
)
def test_a_wrong_uri_is_said_before_anything_is_asked(
    uri: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UriError, match=message):
        fetch(uri, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}", "file://localhost{}"])
def test_what_is_here_stays_where_it_is(form: str, tmp_path: Path) -> None:
    path = tmp_path / "my model.onnx"
    found = fetch(form.format(path).replace(" ", "%20" if form != "{}" else " "))
    assert (found.path, found.name, found.version) == (path, None, None)


@pytest.mark.parametrize(
    "text",
    [
        "https://me:hunter2@host/m.onnx?X-Amz-Signature=hunter2",
        "cannot open 'https://hunter2@host/x' or http://a:hunter2@b/c?token=hunter2&x=1 (retry)",
        "HTTPConnectionPool(host='h'): Max retries exceeded with url: /x?sig=hunter2 (Caused by)",
    ],
)
def test_redacted(text: str) -> None:
    assert "hunter2" not in redacted(text)
    assert "host" in redacted(text)


def test_a_cache_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"the model cache .*file: "):
        fetch("s3://bucket/model", cache=tmp_path / "file")
