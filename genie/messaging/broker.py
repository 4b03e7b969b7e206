"""The broker at an address: links to it, and whether it takes our login."""

import ssl
from urllib.parse import unquote, urlsplit

import pika
from pika.exceptions import (
    AMQPError,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from genie.errors import SettingsError
from genie.messaging.link import Link, LinkEvents

HEARTBEAT_S = 8
"""The broker notices a silent peer after two to three of these: 24 s at most, where 10
took 30.0 s once and 30 took 79 s (measured)."""

CONNECT_TIMEOUT_S = 3.0
ANSWER_S = 15.0
"""A broker that owes an answer for this long is gone: no call waits for ever."""

REFUSED = 403, 530
"""What AMQP says of a login or a virtual host that it will never take."""


def is_memory(url: str) -> bool:
    """True for the embedded, in-process transport."""
    return url.startswith("memory:")


def connect(
    url: str, name: str, events: LinkEvents | None = None, *, vhost: str | None = None
) -> Link:
    """A link to the broker at an address; it connects when it is started.

    ``name`` shows in the broker's listing, ``vhost`` is another virtual host than the
    URL's. In memory there are neither.
    """
    if is_memory(url):
        from genie.messaging import memory

        return memory.link(url, events or LinkEvents())
    from genie.messaging import amqp

    found = parameters(url, name, HEARTBEAT_S)
    if vhost is not None:
        found.virtual_host = vhost
    return amqp.link(found, name, events or LinkEvents())


def parameters(url: str, name: str, heartbeat_s: int) -> pika.ConnectionParameters:
    """How to connect; ``name`` shows in the broker's listing."""
    found = pika.URLParameters(url)
    found.client_properties = {"connection_name": name}
    found.connection_attempts = 1
    found.heartbeat = heartbeat_s
    found.socket_timeout = CONNECT_TIMEOUT_S
    found.stack_timeout = ANSWER_S
    found.blocked_connection_timeout = None  # an alarm may last; links say so at once
    parts = urlsplit(url)
    if parts.path.startswith("//"):
        # As Celery reads it, whose URLs end so for the virtual host "/".
        found.virtual_host = unquote(parts.path[1:])
    if parts.scheme == "amqps":
        found.ssl_options = pika.SSLOptions(_checked(), parts.hostname)
    return found


def _checked() -> ssl.SSLContext:
    """The name in the URL must stand in the certificate. Private authorities are named
    the usual way, with ``SSL_CERT_FILE``."""
    return ssl.create_default_context(cafile=_authorities())


def tls(url: str) -> dict[str, object] | bool:
    """The same for Celery's own connections; False for a URL without TLS.

    With authorities alone, py-amqp accepts any host's certificate of theirs (and with
    neither, anybody's).
    """
    parts = urlsplit(url)
    if parts.scheme != "amqps":
        return False
    return {
        "server_hostname": parts.hostname,
        "cert_reqs": ssl.CERT_REQUIRED,
        "ca_certs": _authorities(),
    }


def _authorities() -> str:
    found = ssl.get_default_verify_paths().cafile
    if found:  # None where the system keeps no bundle, whatever its type says
        return found
    import certifi

    return certifi.where()


def check_login(url: str, *, setting: str) -> None:
    """Raises `SettingsError` when the broker is there and refuses us for good.

    A broker that is away is waited for; one that knows no such user never will be.
    """
    if is_memory(url):
        return
    try:
        pika.BlockingConnection(parameters(url, "genie-boot", HEARTBEAT_S)).close()
    except (ProbableAuthenticationError, ProbableAccessDeniedError) as error:
        raise _refused(str(error), setting) from error
    except ConnectionClosedByBroker as error:
        if error.reply_code in REFUSED:
            raise _refused(error.reply_text, setting) from error
    except (AMQPError, OSError):
        return


def _refused(why: str, setting: str) -> SettingsError:
    return SettingsError(
        f"the message broker refuses this login ({why}); check user, "
        f"password and virtual host in {setting}"
    )
