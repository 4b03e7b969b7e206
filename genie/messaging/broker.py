"""Connections and queues, with the reason for each setting that matters."""

import ssl
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import kombu
from amqp.exceptions import AccessRefused, NotAllowed

from genie import topology
from genie.contracts.inference import WorkClass
from genie.errors import SettingsError
from genie.messaging import frames

if TYPE_CHECKING:
    from kombu.transport.base import StdChannel

HEARTBEAT_S = 8
"""The broker notices a silent peer after two to three of these: 24 s at most, where 10
took 30.0 s once and 30 took 79 s (measured)."""

CONNECT_TIMEOUT_S = 3.0
ANSWER_S = 15.0
"""A broker that owes an answer for this long is gone: no call waits for ever."""

POLLING_INTERVAL_S = 0.005
"""In-memory transport only; its default of a second made 50 jobs take 24 s."""

OnBlocked = tuple[Callable[[str], None], Callable[[], None]]


class BrokerBlocked(ConnectionError):
    """The broker refuses publishes: its memory or disk alarm is on."""


def is_memory(url: str) -> bool:
    """True for the embedded, in-process transport."""
    return url.startswith("memory:")


def connection(
    url: str,
    *,
    name: str,
    heartbeat_s: int = HEARTBEAT_S,
    on_blocked: OnBlocked | None = None,
) -> kombu.Connection:
    """A connection that opens on first use; ``name`` shows in the broker's listing.

    ``on_blocked`` hears why the broker takes no publishes, and that it does again; else
    `BrokerBlocked` is raised where the connection is used.
    """
    if is_memory(url):
        options: dict[str, object] = {"polling_interval": POLLING_INTERVAL_S}
        return kombu.Connection(url, transport_options=options)
    options = {
        "on_blocked": on_blocked[0] if on_blocked else _on_blocked,
        "on_unblocked": on_blocked[1] if on_blocked else None,
        "client_properties": {"connection_name": name},
        "read_timeout": ANSWER_S,
        "write_timeout": ANSWER_S,
    }
    return kombu.Connection(
        url,
        transport=frames.Transport,
        heartbeat=heartbeat_s,
        connect_timeout=CONNECT_TIMEOUT_S,
        transport_options=options,
        ssl=tls(url),
    )


def tls(url: str) -> dict[str, object] | bool:
    """How to check the broker's certificate; False for a URL without TLS.

    The name in the URL must stand in the certificate: with authorities alone, py-amqp
    accepts any host's certificate of theirs (and with neither, anybody's). Private
    authorities are named the usual way, with ``SSL_CERT_FILE``.
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


def connect(connection: kombu.Connection) -> None:
    """Open a connection now, one attempt; raises the transport's own errors.

    ``connection.connect()`` would sleep two seconds before it reports a refusal.
    """
    connection.ensure_connection(
        max_retries=1,
        interval_start=0,
        interval_step=0,
        interval_max=0,
        reraise_as_library_errors=False,
    )


def check_login(url: str, *, setting: str) -> None:
    """Raises `SettingsError` when the broker is there and refuses us for good.

    A broker that is away is waited for; one that knows no such user never will be.
    """
    if is_memory(url):
        return
    opened = connection(url, name="genie-boot")
    try:
        connect(opened)
    except (AccessRefused, NotAllowed) as error:
        raise SettingsError(
            f"the message broker refuses this login ({error.reply_text}); check user, "
            f"password and virtual host in {setting}"
        ) from error
    except (*opened.connection_errors, *opened.channel_errors):
        return
    finally:
        opened.release()


def _on_blocked(reason: str) -> NoReturn:
    # During an alarm a confirmed publish would wait for ever and its timeout does not
    # fire; raising leaves the wait at once.
    raise BrokerBlocked(f"the broker blocks publishes: {reason}")


@lru_cache(1024)  # each message to a queue needs its name, and each name is long made
def model_queue(queue: str, model: str, work_class: WorkClass) -> kombu.Queue:
    """The broker queue of one model and class behind a logical queue."""
    return kombu.Queue(
        topology.model_queue(queue, model, work_class),
        exchange=kombu.Exchange(queue, type="direct", durable=True),
        routing_key=topology.routing_key(model, work_class),
        durable=True,
        queue_arguments=_arguments(queue, work_class),
    )


def _arguments(queue: str, work_class: WorkClass) -> dict[str, object]:
    dead = topology.dead_letters(queue)
    arguments: dict[str, object] = {
        "x-dead-letter-exchange": dead,
        "x-dead-letter-routing-key": dead,
    }
    if work_class is WorkClass.INTERACTIVE:
        # Classic: opening or closing a credit takes 0.4 ms; on quorum, a Raft round.
        return {**arguments, "x-queue-type": "classic"}
    return {
        **arguments,
        "x-queue-type": "quorum",
        "x-delivery-limit": topology.DELIVERY_LIMIT,
        "x-overflow": "reject-publish",  # at-least-once dead-lettering requires it
        "x-dead-letter-strategy": "at-least-once",
    }


def bidders_queue(queue: str, model: str) -> kombu.Queue:
    """Its consumers are the bidders of a model: counted, and told of each other."""
    name = topology.bidders(queue, model)
    return kombu.Queue(
        name,
        exchange=kombu.Exchange(""),
        routing_key=name,
        durable=True,
        expires=86_400,
        queue_arguments={"x-queue-type": "classic"},
    )


def dead_letter_queue(queue: str) -> kombu.Queue:
    """Where a logical queue's undeliverable messages go, with the broker's reason."""
    name = topology.dead_letters(queue)
    return kombu.Queue(
        name,
        exchange=kombu.Exchange(name, type="direct", durable=True),
        routing_key=name,
        durable=True,
        queue_arguments={"x-queue-type": "classic"},
    )


def outcomes_queue() -> kombu.Queue:
    """The cloud's queue of started and outcome events."""
    dead = topology.dead_letters(topology.OUTCOMES)
    return _plain(
        topology.OUTCOMES,
        {"x-dead-letter-exchange": dead, "x-dead-letter-routing-key": dead},
    )


def brain_queue() -> kombu.Queue:
    """Celery queue of the cloud's own tasks."""
    return _plain(topology.BRAIN)


def control_queue(worker_id: str) -> kombu.Queue:
    """One worker's own queue; it goes away a day after its worker did."""
    return kombu.Queue(
        topology.control_queue(worker_id),
        exchange=kombu.Exchange(""),
        routing_key=topology.control_queue(worker_id),
        durable=True,
        expires=86_400,
    )


def reply_queue(asker_id: str) -> kombu.Queue:
    """One web process's own queue; it goes away with the connection."""
    name = topology.reply_queue(asker_id)
    return kombu.Queue(
        name,
        exchange=kombu.Exchange(""),
        routing_key=name,
        durable=False,
        exclusive=True,
        auto_delete=True,
    )


def _plain(name: str, extra: dict[str, str] | None = None) -> kombu.Queue:
    return kombu.Queue(
        name,
        exchange=kombu.Exchange(""),
        routing_key=name,
        durable=True,
        queue_arguments={"x-queue-type": "classic", **(extra or {})},
    )


def declare_model_queue(
    channel: "StdChannel",
    queue: str,
    model: str,
    work_class: WorkClass,
    *,
    waits: bool = True,
) -> kombu.Queue:
    """Declare a model's queue and its dead letters; idempotent, on either end.

    Unless it ``waits``, what the broker refuses is an error of whatever comes next.
    """
    dead_letter_queue(queue)(channel).declare(nowait=not waits)
    bound = model_queue(queue, model, work_class)(channel)
    bound.declare(nowait=not waits)
    return bound
