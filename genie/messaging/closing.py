"""Connections of py-amqp that let go of all they hold when they close.

The library's own point at themselves, with a write buffer of 128 KiB. Nothing but the
collector of cycles frees them then, and it counts objects, not bytes: a worker that
lost its connections again and again kept half a MiB for each loss, for many of them.
"""

from typing import NoReturn

from amqp.exceptions import RecoverableConnectionError
from kombu.transport import pyamqp


def _gone(*_arguments: object) -> NoReturn:
    raise RecoverableConnectionError("the connection is closed")


class Channel(pyamqp.Channel):  # type: ignore[misc]  # kombu has no types
    """A channel that nothing points at once it is closed."""

    def collect(self) -> None:
        """Tear down: the library's own part, then what points back at this."""
        super().collect()
        self._callbacks.clear()
        self.on_open = None  # a promise, kept with what it was given: this
        self.__dict__.pop("basic_publish", None)  # with confirms, a method of its own


class Connection(pyamqp.Connection):  # type: ignore[misc]  # the same
    """A connection that nothing points at once it is closed; it is not opened again."""

    Channel = Channel

    def collect(self) -> None:
        """Tear down: the library's own part, then what points back at this."""
        super().collect()
        self._callbacks.clear()
        self.on_open = None
        # Not None: asked for one of these, the library would connect anew.
        self.frame_writer = self.on_inbound_frame = _gone


class Transport(pyamqp.Transport):  # type: ignore[misc]  # the same
    """What Celery is given as its ``broker_transport``."""

    Connection = Connection
