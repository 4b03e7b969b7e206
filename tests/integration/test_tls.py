"""Over ``amqps`` a broker must prove that it is the one the address names."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fixtures import certificates
from fixtures.nodes import RabbitNode
from genie.messaging import broker
from integration.worker_rig import Asker, Rig

WAIT_S = 10.0
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


def speak_to(listener: Listener) -> str:
    """Why the connection failed, as it is logged."""
    url = f"amqps://guest:guest@localhost:{listener.port}//"
    link = broker.connect(url, "test")
    with capture_logs() as said:
        assert not link.wait_up(WAIT_S)
    link.close()
    return str(said)


@pytest.mark.parametrize("listener", ["elsewhere.example"], indirect=True)
def test_a_certificate_of_another_name_is_refused(
    listener: Listener, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    assert "mismatch" in speak_to(listener)
    assert listener.heard == []


@pytest.mark.parametrize("listener", ["localhost"], indirect=True)
def test_an_authority_nobody_named_is_refused(listener: Listener) -> None:
    assert "verify failed" in speak_to(listener)
    assert listener.heard == []


@pytest.mark.parametrize("listener", ["localhost"], indirect=True)
def test_the_right_name_by_a_named_authority_is_spoken_to(
    listener: Listener, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    speak_to(listener)  # the listener is no broker and hangs up
    assert set(listener.heard) == {SAID}


class Tunnel(Listener):
    """Shakes hands, and passes on what is said to a broker, both ways."""

    def __init__(self, folder: Path, name: str, port: int) -> None:
        self._to = port
        super().__init__(folder, name)

    def _shake(self, raw: socket.socket) -> None:
        def serve() -> None:
            with (
                contextlib.suppress(OSError),
                self._context.wrap_socket(raw.dup(), server_side=True) as secured,
                socket.create_connection(("127.0.0.1", self._to)) as plain,
            ):
                _pass_on(secured, plain)

        threading.Thread(target=serve, daemon=True).start()


def _pass_on(secured: ssl.SSLSocket, plain: socket.socket) -> None:
    secured.settimeout(0.01)
    plain.settimeout(0.01)
    while True:
        for here, there in ((secured, plain), (plain, secured)):
            with contextlib.suppress(TimeoutError, ssl.SSLWantReadError):
                if not (data := here.recv(65_536)):
                    return
                there.settimeout(5.0)
                there.sendall(data)
                there.settimeout(0.01)


def test_work_goes_the_same_way_over_tls(
    rabbitmq: RabbitNode,
    rabbitmq_url: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    tunnel = Tunnel(folder, "localhost", rabbitmq.port)
    address = f"guest:guest@localhost:{tunnel.port}/{rabbitmq_url.rpartition('/')[2]}"
    with Asker(rabbitmq_url) as asker, Rig(f"amqps://{address}", "ann") as rig:
        long = "word " * 60_000  # an outcome of several frames
        for text in ("a b c", long, "d e"):
            outcome = asker.outcome(asker.ask(text))
            assert outcome.text == asker.text(outcome.job_id)
        rig.plane._link.reset()  # and it comes back
        assert asker.outcome(asker.ask("once more")).text == "once more once more"
    tunnel.close()
