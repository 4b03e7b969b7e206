"""Server-sent events as bytes."""

import socket
import struct
from collections.abc import Mapping

from cloud_app.web.json import dumps

SEND_MOST_S = 20
"""A client that reads nothing for this long is gone, whatever its connection says."""

DONE = b"data: [DONE]\n\n"

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Proxies must neither store nor hold back a stream."""


def data(value: object) -> bytes:
    """One event that carries JSON.

    >>> data({"a": 1})
    b'data: {"a":1}\\n\\n'
    """
    return f"data: {dumps(value)}\n\n".encode()


def event(key: str, name: str, value: object) -> bytes:
    """One named event with the id a reader may go on after.

    >>> event("1", "started", {})
    b'id: 1\\nevent: started\\ndata: {}\\n\\n'
    """
    return f"id: {key}\nevent: {name}\ndata: {dumps(value)}\n\n".encode()


def comment(text: str) -> bytes:
    """A line every client ignores and no proxy times out on.

    >>> comment("queued position=1")
    b': queued position=1\\n\\n'
    """
    return f": {text}\n\n".encode()


def bound(environ: Mapping[str, object]) -> None:
    """Let a write that nobody reads fail in time, instead of holding its thread.

    On gunicorn, which gives the client's socket; waitress buffers, to its own limit.
    """
    client = environ.get("gunicorn.socket")
    if isinstance(client, socket.socket):
        limit = struct.pack("ll", SEND_MOST_S, 0)  # a timeval: seconds, microseconds
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
