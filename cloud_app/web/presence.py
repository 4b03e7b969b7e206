"""Whether whoever asked still waits for the answer."""

import socket
import ssl
from collections.abc import Callable, Mapping

IsGone = Callable[[], bool]


def is_gone(environ: Mapping[str, object]) -> IsGone:
    """Says, at each call, whether the client of a request has hung up.

    Asked of the server that runs us: gunicorn gives the client's socket, waitress a
    function. Where neither can tell, and over TLS of gunicorn's own, nobody is gone.
    """
    client = environ.get("gunicorn.socket")
    if isinstance(client, socket.socket) and not isinstance(client, ssl.SSLSocket):
        return lambda: has_hung_up(client)
    ask = environ.get("waitress.client_disconnected")
    if callable(ask):
        return lambda: bool(ask())
    return lambda: False


def has_hung_up(client: socket.socket) -> bool:
    """True when the other end has closed; takes nothing of what it has sent.

    >>> here, there = socket.socketpair()
    >>> has_hung_up(here)
    False
    >>> there.close()
    >>> has_hung_up(here)
    True
    >>> here.close()
    """
    try:
        return not client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
