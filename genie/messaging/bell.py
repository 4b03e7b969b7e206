"""A thread that waits for sockets can be rung by any other thread."""

import contextlib
import os


class Bell:
    """Something ``select`` can wait for; ringing twice is as good as once."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._has_rung = False

    def fileno(self) -> int:
        """What to select on."""
        return self._read

    def ring(self) -> None:
        """Wake the waiting thread; from any thread, never blocks."""
        if self._has_rung:  # and it has not looked yet
            return
        self._has_rung = True
        with contextlib.suppress(BlockingIOError):  # full: it will wake up all the same
            os.write(self._write, b"x")

    def clear(self) -> None:
        """Only by the woken thread, before it looks at what it was woken for."""
        # In this order, else a ring between the two would be read and still count as
        # not looked at: nobody would ring again.
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)
        self._has_rung = False
