"""Server-sent events as bytes."""

from cloud_app.web.json import dumps

DONE = b"data: [DONE]\n\n"

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Proxies must neither store nor hold back a stream."""


def data(value: object) -> bytes:
    """One event that carries JSON.

    >>> data({"a": 1})
    b'data: {"a":1}\\n\\n'
    """
    return f"data: {dumps(value)}\n\n".encode()


def comment(text: str) -> bytes:
    """A line every client ignores and no proxy times out on.

    >>> comment("queued position=1")
    b': queued position=1\\n\\n'
    """
    return f": {text}\n\n".encode()
