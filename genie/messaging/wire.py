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
from typing import Any

from pika.adapters.utils.nbio_interface import (
    AbstractStreamProtocol,
    AbstractStreamTransport,
)
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

from genie.messaging.frames import FRAME_BYTES, HEAD, KINDS
from genie.messaging.iothread import IoThread

ReadFrame = Callable[[int, int, bytes], bool]
"""Reads a frame (its kind, channel and payload) in pika's place; False: pika reads."""


class Wire:
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
                self.flush()

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
                    self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self.lock:
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

    @property
    def is_behind(self) -> bool:
        """True while bytes wait that no cork holds back."""
        waiting = self._waiting and not self._corks
        return bool(waiting or self._transport.get_write_buffer_size())

    def get_write_buffer_size(self) -> int:
        """Bytes that wait."""
        waiting = sum(map(len, self._waiting))
        return int(self._transport.get_write_buffer_size()) + waiting

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Protocol:
    """pika's reader of a connection, which writes through a `Wire`, corked."""

    def __init__(self, inner: Any, services: "Services") -> None:
        self._inner, self._services = inner, services
        self._ahead = b""

    def connection_made(self, transport: AbstractStreamTransport) -> None:
        self._inner.connection_made(self._services.make_wire(transport))

    def data_received(self, data: bytes) -> None:
        with self._services.wire.corked():
            self._split(self._ahead + data)
            self._services.quiet()

    def _split(self, data: bytes) -> None:
        """Give each frame to our reader, or to pika."""
        at = 0
        while len(data) - at >= HEAD.size:
            kind, number, size = HEAD.unpack_from(data, at)
            # What is no frame pika knows how to refuse.
            end = at + FRAME_BYTES + size if kind in KINDS else len(data)
            if end > len(data):
                break
            if not self._services.read(kind, number, data[at + HEAD.size : end - 1]):
                self._inner.data_received(data[at:end])
            at = end
        self._ahead = data[at:]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # pika takes it for the connection, too


class Services(SelectorIOServicesAdapter):  # type: ignore[misc]  # pika is untyped here
    """pika's way to a loop, for one connection; its ``wire`` is there once it is.

    ``quiet`` is called when all that was read is handled.
    """

    wire: Wire

    def __init__(
        self, thread: IoThread, read: ReadFrame, quiet: Callable[[], None]
    ) -> None:
        super().__init__(thread.loop)
        self._thread, self.read, self.quiet = thread, read, quiet
        self._plain: socket.socket | None = None
        self._raw: socket.socket | None = None

    def make_wire(self, transport: AbstractStreamTransport) -> Wire:
        """The connection is there."""
        self.wire = Wire(transport, self._plain, self.cut, self._thread)
        return self.wire

    def cut(self) -> None:
        """Let whoever reads find the end of the connection."""
        if self._raw is not None:
            with contextlib.suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """The connection is over."""
        if self._raw is not None and self._raw is not self._plain:
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
        self._plain = sock if ssl_context is None else None
        # TLS takes the socket away from us; another name of it still ends it.
        self._raw = self._plain or sock.dup()
        return super().create_streaming_connection(
            lambda: _Protocol(protocol_factory(), self),
            sock,
            on_done,
            ssl_context,
            server_hostname,
        )
