"""Fetching over HTTP: whole or not at all, once or each time, and never outside of the cache."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coalmine.sources import CacheError, DigestError, Fetched, FetchError, MissingExtraError

Get = Callable[..., Fetched]
Network = Callable[..., bytes]


def packed(files: dict[str, bytes], *, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def leftovers(cache: Path) -> list[str]:
    """What a failed download left: nothing."""
    return [str(path) for folder in ("content", "incoming") for path in (cache / folder).iterdir()]


def test_a_file(web: Any, get: Get, network: Network, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    web.files["/fraud.onnx"] = network()
    found = get(f"{web.url}/fraud.onnx")
    assert (found.path.read_bytes(), found.name) == (network(), "fraud")
    assert "fetched" in caplog.text
    # Asked for again: what is behind a URL may have changed.
    web.files["/fraud.onnx"] = network(2)
    assert get(f"{web.url}/fraud.onnx").path.read_bytes() == network(2)
    assert found.path.read_bytes() == network(), "what is served stays as it was"


def test_a_digest_makes_it_one_download(web: Any, get: Get, network: Network) -> None:
    web.files["/m.onnx"] = network()
    uri = f"{web.url}/m.onnx#sha256={hashlib.sha256(network()).hexdigest()}"
    path = get(uri).path
    web.files.clear()
    assert get(uri).path == path
    assert web.asked["/m.onnx"] == 1
    path.write_bytes(b"damaged on the disk")
    web.files["/m.onnx"] = network()
    assert get(uri).path.read_bytes() == network()
    assert web.asked["/m.onnx"] == 2


def test_another_content_is_refused(web: Any, get: Get, network: Network, tmp_path: Path) -> None:
    web.files["/m.onnx"] = network()
    with pytest.raises(DigestError, match=rf"its sha256 is [0-9a-f]{{64}}, not {'0' * 64}"):
        get(f"{web.url}/m.onnx#sha256={'0' * 64}")
    assert leftovers(tmp_path / "cache") == []


def test_a_file_that_is_cut_off_is_asked_for_again(
    web: Any, get: Get, network: Network, tmp_path: Path
) -> None:
    web.files["/m.onnx"] = network()
    web.faults = ["cut", 503]
    assert get(f"{web.url}/m.onnx").path.read_bytes() == network()
    assert web.asked["/m.onnx"] == 3
    web.files["/cut.onnx"] = network()[:-3]  # whole to HTTP, and yet no model
    with pytest.raises(DigestError, match=r"cut\.onnx: not a whole ONNX file"):
        get(f"{web.url}/cut.onnx")


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (403, 1), (401, 1), (500, 3), (429, 3)])
def test_what_cannot_get_better_is_asked_once(
    web: Any, get: Get, status: int, asked: int, tmp_path: Path
) -> None:
    web.files["/m.onnx"] = b""
    web.faults = [status] * 9
    with pytest.raises(FetchError):
        get(f"{web.url}/m.onnx", attempts=3)
    assert web.asked["/m.onnx"] == asked
    assert leftovers(tmp_path / "cache") == []


def test_nobody_there(get: Get) -> None:
    with pytest.raises(FetchError, match="Failed to connect"):
        get("http://127.0.0.1:9/m.onnx", attempts=2)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive(web: Any, get: Get, network: Network, kind: str) -> None:
    sums = f"{hashlib.sha256(network()).hexdigest()}  model.onnx\n"
    files = {"model.onnx": network(), "SHA256SUMS": sums.encode(), "labels/names.txt": b"a b"}
    web.files[f"/m.{kind}"] = packed(files, kind=kind)
    found = get(f"{web.url}/m.{kind}").path
    assert {str(p.relative_to(found)) for p in found.rglob("*") if p.is_file()} == set(files)
    files["SHA256SUMS"] = f"{'0' * 64}  model.onnx\n".encode()
    web.files[f"/m.{kind}"] = packed(files, kind=kind)
    with pytest.raises(DigestError, match=r"model\.onnx: not the content that SHA256SUMS says"):
        get(f"{web.url}/m.{kind}")
    files["SHA256SUMS"] = f"{sums}{'0' * 64}  weights.bin\n".encode()
    web.files[f"/m.{kind}"] = packed(files, kind=kind)
    with pytest.raises(DigestError, match=r"weights\.bin: named in SHA256SUMS, and missing"):
        get(f"{web.url}/m.{kind}")


def test_the_digest_in_a_card(web: Any, get: Get, network: Network) -> None:
    card = "name: m\ninputs: []\noutputs: []\nsha256: '{}'\n"
    digest = hashlib.sha256(network()).hexdigest()
    for number, said in enumerate((digest, "0" * 64)):
        files = {"model.onnx": network(), "model.yaml": card.format(said).encode()}
        web.files[f"/m{number}.zip"] = packed(files, kind="zip")
    assert (get(f"{web.url}/m0.zip").path / "model.yaml").is_file()
    with pytest.raises(DigestError, match=rf"m1\.zip: model\.onnx: its sha256 is {digest}"):
        get(f"{web.url}/m1.zip")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("name", ["../../../../evil", "{absolute}/evil"])
def test_an_archive_cannot_write_elsewhere(
    web: Any, get: Get, network: Network, kind: str, name: str, tmp_path: Path
) -> None:
    name = name.format(absolute=tmp_path)
    web.files[f"/m.{kind}"] = packed({"model.onnx": network(), name: b"evil"}, kind=kind)
    try:
        get(f"{web.url}/m.{kind}")
    except FetchError:
        pass  # tar refuses; zip takes the dots away, and it stays inside
    outside = [p for p in tmp_path.rglob("evil") if not p.is_relative_to(tmp_path / "cache")]
    assert outside == []
    assert not (tmp_path / "cache" / "evil").exists()


def test_a_link_in_an_archive_is_refused(web: Any, get: Get, network: Network) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("model.onnx")
        member.type, member.linkname = tarfile.SYMTYPE, "other.onnx"
        archive.addfile(member)
        real = tarfile.TarInfo("other.onnx")
        real.size = len(network())
        archive.addfile(real, io.BytesIO(network()))
    web.files["/m.tar.gz"] = buffer.getvalue()
    with pytest.raises(DigestError, match="a link or special file"):
        get(f"{web.url}/m.tar.gz")


def test_secrets_stay_secret(
    web: Any, get: Get, network: Network, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("127.0.0.1-headers", json.dumps({"X-Token": "hunter21"}))
    base = web.url.replace("http://", "http://me:hunter2@")
    web.files["/m.onnx"] = network()
    get(f"{base}/m.onnx?token=hunter2")
    assert any("hunter21" in str(headers) for headers in web.headers), "but it is sent"
    with pytest.raises(FetchError) as caught:
        get(f"{base}/none.onnx?token=hunter2", attempts=1)
    assert "hunter2" not in caplog.text
    assert "hunter2" not in str(caught.value)


PROCESS = """
import sys
from pathlib import Path
from coalmine.sources import fetch
print(fetch(sys.argv[1], cache=Path(sys.argv[2]), delay=0.01).path)
"""


def spawn(uri: str, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, uri, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_that_fetch_at_once_share_one_download(
    web: Any, network: Network, tmp_path: Path
) -> None:
    web.files["/m.onnx"] = network()
    web.faults = ["slow"]
    running = [spawn(f"{web.url}/m.onnx", tmp_path / "cache") for _ in range(3)]
    paths = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(paths) == 1
    assert Path(paths.pop().strip()).read_bytes() == network()
    assert web.asked["/m.onnx"] <= 2  # one that came late may have asked for itself


def test_killed_half_way_leaves_nothing_that_counts(
    web: Any, get: Get, network: Network, tmp_path: Path
) -> None:
    web.files["/m.onnx"] = network()
    web.faults = ["slow"]
    cache = tmp_path / "cache"
    process = spawn(f"{web.url}/m.onnx", cache)
    while not list(cache.glob("incoming/*/model/m.onnx")):
        time.sleep(0.01)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert list((cache / "content").iterdir()) == []
    assert get(f"{web.url}/m.onnx").path.read_bytes() == network()
    assert list((cache / "incoming").iterdir()) == [], "and what was left is swept"


#: Makes a process of ours find the disk full when it writes the model.
FULL_DISK = """
import builtins, errno, os
plain = builtins.open
def full(path, *arguments, **more):
    if str(path).endswith("m.onnx"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return plain(path, *arguments, **more)
builtins.open = full
"""


def test_a_full_disk_is_said(
    web: Any, get: Get, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "site" / "sitecustomize.py"
    code.parent.mkdir()
    code.write_text(FULL_DISK)
    monkeypatch.setenv("PYTHONPATH", str(code.parent))
    web.files["/m.onnx"] = network()
    with pytest.raises(CacheError, match="no space left on the disk of the model cache"):
        get(f"{web.url}/m.onnx")
    assert leftovers(tmp_path / "cache") == []


def test_a_missing_extra_is_named(
    get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("kserve_storage", "mlflow"):
        (tmp_path / f"{library}.py").write_text(f"raise ImportError('No module named {library}')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"pip install 'coalmine\[storage\]'"):
        get("s3://models/fraud")
    with pytest.raises(MissingExtraError, match=r"pip install 'coalmine\[mlflow\]'"):
        get("models:/fraud/1")
