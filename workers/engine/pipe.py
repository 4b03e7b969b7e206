"""Carries whole frames over a socket between a worker and its engine's child.

One read takes all that has arrived. The worker's side never waits to write: a child in
a long step reads nothing, and the thread that asks it serves other models too.
"""

import contextlib
import select
import socket
import struct
import threading
from collections import deque

READ_BYTES = 65_536
"""For more, malloc asks the kernel for memory anew, read after read."""

_HEAD = struct.Struct("<I")


class Pipe:
    """One end. One thread reads and waits; any may write.

    >>> ours, theirs = Pipe.pair()
    >>> ours.send(b"one")
    >>> theirs.wait(1.0), theirs.frames()
    (True, [b'one'])
    >>> ours.close(), theirs.close()
    (None, None)
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._arrival = select.poll()
        self._arrival.register(end, select.POLLIN)
        self._ahead = bytearray()
        self._whole: list[bytes] = []
        self._writing = threading.Lock()
        self._unsent: deque[bytes] = deque()

    @classmethod
    def pair(cls) -> tuple["Pipe", "Pipe"]:
        """Both ends of a new pipe."""
        ours, theirs = socket.socketpair()
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        """The file descriptor of this end."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end; the other one reads `EOFError`."""
        self._socket.close()

    def wait(self, timeout_s: float | None) -> bool:
        """Until something has come, the end included; False when nothing did."""
        if self._whole:
            return True
        patience_ms = None if timeout_s is None else timeout_s * 1000
        return bool(self._arrival.poll(patience_ms))

    def frames(self) -> list[bytes]:
        """All whole frames that are here; raises `EOFError` when no more can come."""
        if self._has_ended() and not self._whole:
            raise EOFError
        whole, self._whole = self._whole, []
        begin = at = 0
        while len(self._ahead) - at >= _HEAD.size:
            begin = at + _HEAD.size
            end = begin + _HEAD.unpack_from(self._ahead, at)[0]
            if end > len(self._ahead):
                break
            whole.append(bytes(memoryview(self._ahead)[begin:end]))
            at = end
        del self._ahead[:at]
        return whole

    def _has_ended(self) -> bool:
        """Read all that is here; true when that was nothing, and nothing will come."""
        is_new = False
        try:
            while read := self._socket.recv(READ_BYTES, socket.MSG_DONTWAIT):
                self._ahead += read
                is_new = True
                if len(read) < READ_BYTES:
                    return False
        except BlockingIOError:
            return False
        except OSError:
            if not is_new:  # else its last words first
                raise
        return not is_new

    def frame(self) -> bytes:
        """The next frame, waited for."""
        while not self._whole:
            self.wait(None)
            self._whole = self.frames()
        first, *self._whole = self._whole
        return first

    def send(self, frame: bytes) -> None:
        """Write a frame; waits while the other end is behind."""
        with self._writing:
            self._socket.sendall(_HEAD.pack(len(frame)) + frame)

    def send_soon(self, frame: bytes) -> None:
        """Write a frame without waiting; what the socket does not take goes later."""
        with self._writing:
            coded = _HEAD.pack(len(frame)) + frame
            if self._unsent:
                self._unsent.append(coded)
                return
            sent = 0
            with contextlib.suppress(BlockingIOError):
                sent = self._socket.send(coded, socket.MSG_DONTWAIT)
            if sent < len(coded):
                self._unsent.append(coded[sent:])
                threading.Thread(target=self._catch_up, daemon=True).start()

    def _catch_up(self) -> None:
        while True:
            with self._writing:
                if not self._unsent:
                    return
                first = self._unsent[0]
            try:
                self._socket.sendall(first)
            except OSError:
                return  # the other end is gone, and whoever listens to it knows
            with self._writing:
                self._unsent.popleft()
