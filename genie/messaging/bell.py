"""A thread that waits for sockets can be rung by any other thread."""

import contextlib
import os
import select


class Bell:
    """Waited for together with sockets; ringing twice is as good as once.

    >>> bell = Bell()
    >>> bell.ring()
    >>> bell.wait((), 5.0)  # at once, and no socket has anything to read
    False
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._has_rung = self._is_heard = False
        self._sockets: tuple[int, ...] = ()
        self._waiting = self._awaited()

    def __del__(self) -> None:
        # When nobody is left who could ring: a number closed earlier may be another's.
        os.close(self._read)
        os.close(self._write)

    def wait(self, sockets: tuple[int, ...], wait_s: float) -> bool:
        """Until it rings or a socket has something to read; true if one has.

        Waits with ``poll``: ``select`` knows no file number above 1023, and a web
        process with many streams has them.
        """
        if sockets != self._sockets:
            self._sockets, self._waiting = sockets, self._awaited(*sockets)
        ready = [one for one, _event in self._waiting.poll(wait_s * 1000)]
        self._is_heard = self._read in ready
        return len(ready) > self._is_heard

    def _awaited(self, *sockets: int) -> select.poll:
        waiting = select.poll()
        for one in (self._read, *sockets):
            waiting.register(one, select.POLLIN)
        return waiting

    def ring(self) -> None:
        """Wake the waiting thread; from any thread, never blocks."""
        if self._has_rung:  # and it has not looked yet
            return
        self._has_rung = True
        with contextlib.suppress(BlockingIOError):  # full: it will wake up all the same
            os.write(self._write, b"x")

    def clear(self) -> None:
        """Only by the woken thread, before it looks at what it was woken for."""
        if not (self._has_rung or self._is_heard):
            return
        # In this order, else a ring between the two would be read and still count as
        # not looked at: nobody would ring again.
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)
        self._has_rung = False
