"""The socket of one AMQP connection, written by any thread and by the batch.

pika writes each frame with a system call of its own, in its own thread. Here all that
is written while the broker's thread handles what one read brought leaves in one write,
and another thread's frames leave at once where nothing waits before them: waking the
broker's thread would take longer. Over TLS only the broker's thread writes.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from pika.adapters.utils.nbio_interface import (
    AbstractStreamProtocol,
    AbstractStreamTransport,
)
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

from genie.messaging.frames import FRAME_BYTES, HEAD, KINDS
from genie.messaging.iothread import IoThread


class Reader(Protocol):
    """Who reads some frames in pika's place."""

    def wants(self, kind: int, number: int, payload: bytes) -> bool:
        r"""True for a frame that is `take`\ n here."""

    def take(self, kind: int, number: int, payload: bytes) -> None:
        """One frame of a channel."""

    def quiet(self) -> None:
        """All that was read is handled."""


class Wire(AbstractStreamTransport):  # type: ignore[misc]  # pika's are untyped here
    """pika's transport, with what waits to be written."""

    def __init__(
        self,
        transport: AbstractStreamTransport,
        plain: socket.socket | None,
        cut: Callable[[], None],
        thread: IoThread,
    ) -> None:
        self._transport, self._plain, self._thread = transport, plain, thread
        self.cut = cut
        self._waiting: list[bytes] = []
        self._corks = 0
        self.lock = threading.RLock()

    def write(self, data: bytes) -> None:
        """Write now, or with the others while corked; whole frames, from any thread."""
        with self.lock:
            self._waiting.append(data)
            if not self._corks:
                self._flush()

    @contextlib.contextmanager
    def corked(self) -> Iterator[None]:
        """Let what is written within, by whichever thread, leave in one write."""
        with self.lock:
            self._corks += 1
        try:
            yield
        finally:
            with self.lock:
                self._corks -= 1
                if not self._corks:
                    self._flush()

    def flush(self) -> None:
        """Write what waits."""
        with self.lock:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        data = b"".join(self._waiting)
        self._waiting.clear()
        # While pika still has bytes of ours nothing may overtake them.
        if self._plain is not None and not self._transport.get_write_buffer_size():
            data = data[self._send(self._plain, data) :]
        if not data:
            return
        if self._thread.is_here:
            self._transport.write(data)
            return
        self._waiting.append(data)
        self._thread.call(self.flush)

    def _send(self, plain: socket.socket, data: bytes) -> int:
        try:
            return plain.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.cut()  # half a frame may be out
            return len(data)

    def abort(self) -> None:
        """Close without further ado."""
        self._transport.abort()

    def get_protocol(self) -> AbstractStreamProtocol:
        """What reads it."""
        return self._transport.get_protocol()

    @property
    def is_behind(self) -> bool:
        """True while bytes wait that no cork holds back."""
        held = bool(self._corks) or not self._waiting
        return not held or bool(self._transport.get_write_buffer_size())

    def get_write_buffer_size(self) -> int:
        """Bytes that wait."""
        waiting = sum(map(len, self._waiting))
        return int(self._transport.get_write_buffer_size()) + waiting


class _Protocol(AbstractStreamProtocol):  # type: ignore[misc]  # the same
    """pika's reader of a connection, which writes through a `Wire`, corked."""

    def __init__(
        self, inner: Any, made: Callable[[Any], Wire], reader: "Reader"
    ) -> None:
        self._inner, self._made, self._reader = inner, made, reader
        self._ahead = b""
        self._corked: Callable[[], AbstractContextManager[None]] = nullcontext

    def connection_made(self, transport: AbstractStreamTransport) -> None:
        """It is connected."""
        wire = self._made(transport)
        self._corked = wire.corked
        self._inner.connection_made(wire)

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        with self._corked():
            self._split(data)
            self._reader.quiet()

    def _split(self, data: bytes) -> None:
        """Give each frame to our reader, and to pika what that does not want."""
        self._ahead += data
        begin = at = 0
        while len(self._ahead) - at >= HEAD.size:
            kind, number, size = HEAD.unpack_from(self._ahead, at)
            end = at + FRAME_BYTES + size
            if kind not in KINDS:  # what is no frame pika knows how to refuse
                end = len(self._ahead)
            if end > len(self._ahead):
                break
            payload = self._ahead[at + HEAD.size : end - 1]
            if self._reader.wants(kind, number, payload):
                self._pass_on(begin, at)  # first: in order
                self._reader.take(kind, number, payload)
                begin = end
            at = end
        self._pass_on(begin, at)
        self._ahead = self._ahead[at:]

    def _pass_on(self, begin: int, end: int) -> None:
        if end > begin:
            self._inner.data_received(self._ahead[begin:end])

    def eof_received(self) -> object:
        """The broker says no more."""
        return self._inner.eof_received()

    def connection_lost(self, error: BaseException | None) -> None:
        """It is over."""
        self._inner.connection_lost(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # pika takes it for the connection, too


class Services(SelectorIOServicesAdapter):  # type: ignore[misc]  # the same
    """pika's way to a loop, for one connection; its ``wire`` is there once it is."""

    def __init__(self, thread: IoThread, reader: "Reader") -> None:
        super().__init__(thread.loop)
        self._thread, self._reader = thread, reader
        self.wire: Wire | None = None
        self._raw: socket.socket | None = None

    def drop(self) -> None:
        """The connection is over."""
        if self._raw is not None:
            self._raw.close()

    def create_streaming_connection(
        self,
        protocol_factory: Callable[[], AbstractStreamProtocol],
        sock: socket.socket,
        on_done: Callable[[Any], None],
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> Any:
        """As pika's own, with a `Wire` between the connection and its socket."""
        plain = sock if ssl_context is None else None
        # TLS takes the socket away from us; another name of it still ends it.
        raw = sock.dup() if plain is None else sock
        self._raw = None if plain is sock else raw

        def cut() -> None:
            """Let who reads find the end of the connection."""
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)

        def made(transport: AbstractStreamTransport) -> Wire:
            self.wire = Wire(transport, plain, cut, self._thread)
            return self.wire

        def protocol() -> _Protocol:
            return _Protocol(protocol_factory(), made, self._reader)

        return super().create_streaming_connection(
            protocol, sock, on_done, ssl_context, server_hostname
        )
