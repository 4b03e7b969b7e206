"""Over ``amqps`` a broker must prove that it is the one the address names."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures import certificates
from genie.messaging import broker

SAID = b"AMQP\x00\x00\x09\x01"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    certificates.authority(made)
    for name in ("localhost", "elsewhere.example"):
        certificates.certificate(made, name)
    return made


class Listener:
    """Shakes hands as ``name`` and keeps the first bytes a client then sends."""

    def __init__(self, folder: Path, name: str) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.heard: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:  # a client tries twice
            try:
                raw, _ = self._server.accept()
            except OSError:  # closed
                return
            with raw, contextlib.suppress(OSError):
                self._shake(raw)

    def _shake(self, raw: socket.socket) -> None:
        with self._context.wrap_socket(raw, server_side=True) as secured:
            self.heard.append(secured.recv(8))

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)


@pytest.fixture
def listener(folder: Path, request: pytest.FixtureRequest) -> Iterator[Listener]:
    made = Listener(folder, request.param)
    yield made
    made.close()


def speak_to(listener: Listener) -> None:
    url = f"amqps://guest:guest@localhost:{listener.port}//"
    with broker.connection(url, name="test") as connection:
        broker.connect(connection)


@pytest.mark.parametrize("listener", ["elsewhere.example"], indirect=True)
def test_a_certificate_of_another_name_is_refused(
    listener: Listener, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        speak_to(listener)
    assert listener.heard == []


@pytest.mark.parametrize("listener", ["localhost"], indirect=True)
def test_an_authority_nobody_named_is_refused(listener: Listener) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        speak_to(listener)
    assert listener.heard == []


@pytest.mark.parametrize("listener", ["localhost"], indirect=True)
def test_the_right_name_by_a_named_authority_is_spoken_to(
    listener: Listener, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    with pytest.raises(OSError):  # the listener is no broker and hangs up
        speak_to(listener)
    assert set(listener.heard) == {SAID}
