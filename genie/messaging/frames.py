"""Frames read by the buffer and written by the batch.

py-amqp asks the kernel three times for each frame, nine times for a message, and writes
each method by itself. Here one read takes what has arrived, and what is written within
`corked` leaves in one write. Plain sockets only: TLS goes py-amqp's own way.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import kombu
from amqp.exceptions import UnexpectedFrame
from amqp.transport import SSLTransport, TCPTransport

from genie.messaging import closing, light

RECEIVE_BYTES = 65_536

_HEAD = struct.Struct(">BHI")
_END = 0xCE

Frame = tuple[int, int, bytes]


class BufferedTransport(TCPTransport):  # type: ignore[misc]  # amqp has no types
    """A socket with what was read ahead of, and what waits to be written."""

    def _setup_transport(self) -> None:
        super()._setup_transport()
        self._ahead, self._at = b"", 0
        self._waiting: list[bytes] = []
        self._is_corked = False
        self._writing = threading.Lock()

    def read_frame(self, unpack: object = None) -> Frame:
        """The next frame; raises `TimeoutError` when it does not come whole in time."""
        while not self.has_frame:
            self.flush()  # whoever is to answer must have been asked
            self.fill()
        kind, channel, size = _HEAD.unpack_from(self._ahead, self._at)
        begin = self._at + _HEAD.size
        self._at = begin + size + 1
        if self._ahead[self._at - 1] != _END:
            raise UnexpectedFrame("a frame of the broker does not end where it should")
        return kind, channel, self._ahead[begin : begin + size]

    @property
    def has_frame(self) -> bool:
        """True when a whole frame is here already."""
        here = len(self._ahead) - self._at
        if here < _HEAD.size:
            return False
        size: int = _HEAD.unpack_from(self._ahead, self._at)[2]
        return here > _HEAD.size + size

    def fill(self) -> None:
        """Read once what has arrived; waits if that is nothing."""
        try:
            read = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError as error:  # SO_RCVTIMEO: the socket's own patience
            raise TimeoutError("the broker is silent") from error
        if not read:
            self.connected = False
            raise ConnectionResetError("the broker closed the connection")
        self._ahead, self._at = self._ahead[self._at :] + read, 0

    def write(self, frame: bytes | memoryview) -> None:
        """Write now, or with the others when corked; whole frames, from any thread."""
        with self._writing:
            self._waiting.append(bytes(frame))  # its memory is used again
            if not self._is_corked:
                self._flush()

    def write_soon(self, frame: bytes) -> bool:
        """Write without ever waiting; false when something is left for a `flush`."""
        with self._writing:
            if self._waiting or self._is_corked:
                self._waiting.append(frame)
                return self._is_corked
            return self._send_now(frame)

    def hold(self, frame: bytes) -> None:
        """Write it with what is written next, or at the next `flush`."""
        with self._writing:
            self._waiting.append(frame)

    @property
    def is_holding(self) -> bool:
        """True while something waits to be written."""
        return bool(self._waiting)

    def cork(self) -> None:
        """Hold back what is written from now on."""
        with self._writing:
            self._is_corked = True

    def uncork(self) -> None:
        """Write what was held back, and hold back no more."""
        with self._writing:
            self._flush()
            self._is_corked = False

    def uncork_soon(self) -> bool:
        """As `uncork`, without ever waiting; false when something is left for a
        `flush`."""
        with self._writing:
            self._is_corked = False
            if not self._waiting:
                return True
            waiting, self._waiting = b"".join(self._waiting), []
            return self._send_now(waiting)

    def flush(self) -> None:
        """Write what was held back so far, all at once."""
        if self._waiting:
            with self._writing:
                self._flush()

    def _send_now(self, frame: bytes) -> bool:
        try:
            sent = self.sock.send(frame, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._fail()
            raise
        if sent < len(frame):
            self._waiting.append(frame[sent:])
        return not self._waiting

    def _flush(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                self._write(waiting[0] if len(waiting) == 1 else b"".join(waiting))
            except OSError:
                self._fail()
                raise

    def _fail(self) -> None:
        """Let who reads find the end, whichever thread wrote: half a frame may be out,
        and a connection called lost here would be opened anew unseen, by kombu."""
        opened = self.sock
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)


class Channel(closing.Channel):
    """A channel that can also be heard the short way: `genie.messaging.light`."""

    def __init__(self, *arguments: object, **options: object) -> None:
        self.hearers: dict[str, light.Hear] = {}
        super().__init__(*arguments, **options)
        # Kept: a closed connection would open a new one when asked for its transport.
        self.wire = self.connection.transport

    def collect(self) -> None:
        """Tear down; who hears messages holds the channel to settle them on."""
        super().collect()
        self.hearers.clear()

    def _on_basic_cancel_ok(self, tag: str) -> None:
        super()._on_basic_cancel_ok(tag)
        self.hearers.pop(tag, None)  # after this nothing more comes for it

    @property
    def is_shared(self) -> bool:
        """True when any thread may write on it (not so where that is encrypted)."""
        return isinstance(self.wire, BufferedTransport)


class Connection(closing.Connection):
    """An AMQP connection over a `BufferedTransport`, unless it is encrypted."""

    Channel = Channel

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, frame_handler=light.handler, **options)

    def Transport(  # noqa: N802  # py-amqp's name of this hook
        self,
        host: str,
        connect_timeout: float,
        ssl: object = False,
        *timeouts: float | None,
        **options: object,
    ) -> BufferedTransport | SSLTransport:
        """The socket of one connection."""
        make = SSLTransport if ssl else BufferedTransport
        read_s, write_s = timeouts
        return make(
            host,
            connect_timeout=connect_timeout,
            ssl=ssl,
            read_timeout=read_s,
            write_timeout=write_s,
            **options,
        )


class Transport(closing.Transport):
    """What `kombu.Connection` is given as its ``transport``."""

    Connection = Connection


def has_more(connection: kombu.Connection) -> bool:
    """True when something was read already that nobody has looked at."""
    transport = connection.connection.transport
    if isinstance(transport, BufferedTransport):
        return transport.has_frame
    return bool(getattr(transport.sock, "pending", int)())  # decrypted bytes of TLS


def drain(connection: kombu.Connection) -> None:
    """Handle all that one read brings; call it when there is something to read.

    Raises `TimeoutError` when that was half a frame; it is kept for next time.
    """
    opened = connection.connection
    transport = opened.transport
    if not isinstance(transport, BufferedTransport):
        connection.drain_events(timeout=1)
        return
    if not transport.has_frame:
        transport.fill()
    while transport.has_frame:
        opened.blocking_read()


@contextlib.contextmanager
def corked(connection: kombu.Connection) -> Iterator[None]:
    """Let all that is written within leave at once at the end, or before a wait."""
    transport = getattr(connection.connection, "transport", None)
    if not isinstance(transport, BufferedTransport):
        yield
        return
    transport.cork()
    yield
    transport.uncork()  # not after an error: the connection is given up then
