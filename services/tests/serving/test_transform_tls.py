"""A transformer asks its predictor over TLS, trusts whom it is told to, and nobody else."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coalmine.serving import StartupError
from coalmine.serving._transformer_main import options_of

from .alone import ROWS, get, until, v2

LOCALHOST = x509.SubjectAlternativeName(
    [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
)


def certificate(
    name: str, *, of: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate for this machine signed by `of`, or an authority that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if of is None else of[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=of is None, path_length=None), critical=True)
    )
    if of is not None:
        made = made.add_extension(LOCALHOST, critical=False)
    return made.sign(key if of is None else of[1], hashes.SHA256()), key


def pem(found: x509.Certificate) -> bytes:
    return found.public_bytes(serialization.Encoding.PEM)


class Tunnel:
    """TLS in front of a server on this machine, as an ingress has it."""

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        self._context, self.target = context, port
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._started.wait()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            with suppress(asyncio.CancelledError):
                runner.run(self._serve())

    async def _serve(self) -> None:
        self._task = asyncio.current_task()
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        try:
            await asyncio.Event().wait()
        finally:  # Python 3.12's `async with server` would wait for clients that keep connections
            server.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", self.target)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        try:
            with suppress(asyncio.CancelledError):  # at the end; asyncio would log it
                await asyncio.gather(copy(reader, outer), copy(inner, writer))
        finally:
            writer.transport.abort()
            outer.transport.abort()

    def close(self) -> None:
        assert self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """The file of an authority of our own, and a server's context with a certificate by it."""
    directory = tmp_path_factory.mktemp("tls")
    root = certificate("Coalmine's tests")
    leaf, key = certificate("predictor", of=root)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (directory / "ca.pem").write_bytes(pem(root[0]))
    (directory / "server.pem").write_bytes(secret + pem(leaf))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "server.pem")
    context.set_alpn_protocols(["h2", "http/1.1"])
    return directory / "ca.pem", context


@pytest.fixture(scope="module")
def tunnel(authority: tuple[Path, ssl.SSLContext], start: Any, model_dir: Path) -> Iterator[Tunnel]:
    predictor = start(model_dir)
    made = Tunnel(authority[1], predictor.port)
    yield made
    made.close()


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_an_authority_of_ones_own(
    alone: Any,
    tunnel: Tunnel,
    authority: tuple[Path, ssl.SSLContext],
    truth: Any,
    scheme: str,
) -> None:
    address = f"{scheme}://127.0.0.1:{tunnel.port}"
    served = alone("Declared", "--predictor", address, "--predictor-ca", str(authority[0]))
    answer = httpx.post(f"{served.url}/v2/models/toy/infer", json=v2())
    assert answer.status_code == 200, answer.text
    labels, _ = truth([[value / 2 for value in row] for row in ROWS])
    names = ["normal", "fault", "unknown"]
    assert answer.json()["outputs"][0]["data"] == [names[label] for label in labels]


@pytest.mark.parametrize("scheme", ["https", pytest.param("grpcs", marks=pytest.mark.slow)])
def test_an_authority_nobody_trusts(alone: Any, tunnel: Tunnel, scheme: str) -> None:
    served = alone("Declared", "--predictor", f"{scheme}://127.0.0.1:{tunnel.port}", ready=False)
    answer = until(
        lambda: get(f"{served.url}/v2/models/toy/ready"), status=503, holding="cannot be reached"
    )
    if scheme == "https":
        assert "its certificate is not trusted" in answer.json()["error"]


@pytest.mark.slow
def test_a_predictor_without_tls(alone: Any, tunnel: Tunnel) -> None:
    served = alone("Declared", "--predictor", f"https://127.0.0.1:{tunnel.target}", ready=False)
    until(
        lambda: get(f"{served.url}/v2/models/toy/ready"), status=503, holding="does not speak TLS"
    )


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_an_authority_of_the_environment(
    alone: Any, tunnel: Tunnel, authority: tuple[Path, ssl.SSLContext], variable: str
) -> None:
    address = ("--predictor_host", f"127.0.0.1:{tunnel.port}", "--predictor_use_ssl", "true")
    trusted = {"REQUESTS_CA_BUNDLE": "", variable: str(authority[0])}
    served = alone("Declared", *address, "--predictor-protocol", "v2", **trusted)
    assert httpx.post(f"{served.url}/v2/models/toy/infer", json=v2()).status_code == 200


def test_a_file_without_certificates_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["a:B", "--name", "m", "--predictor", "https://127.0.0.1:9", "--predictor-ca"]
    with pytest.raises(StartupError, match="nowhere: No such file"):
        options_of([*given, str(tmp_path / "nowhere")])
    (tmp_path / "empty").write_text("nothing\n")
    with pytest.raises(StartupError, match="empty: no certificates in it"):
        options_of([*given, str(tmp_path / "empty")])
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere"))
    assert options_of(["a:B", "--name", "m", "--predictor", "http://127.0.0.1:9"]).predictor
