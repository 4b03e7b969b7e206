"""Messages nobody could serve, in the dead-letter queue of each logical queue.

They are looked at in place: fetched without an ack, and back where they were when the
channel closes. With pika: bytes in, nothing inflated, nothing decoded before we ask.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pika import BasicProperties, BlockingConnection, ConnectionParameters
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from genie import topology
from genie.contracts.inference import InferenceTask
from genie.errors import BrokerDown
from genie.messaging import broker, envelope, queues

LOOK_MOST = 1_000
LOOK_MOST_BYTES = 64 * 1024 * 1024
"""One look fetches no more than this; the oldest letters come first."""

TIMEOUT_S = 5.0
NAME_MOST = 255

REASONS = {
    "rejected": "a worker could not read it as a task",
    "delivery_limit": "workers took it again and again and none of them ended it",
    "expired": "it waited longer than it may",
    "maxlen": "its queue was full",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One message that was set aside. ``body`` may hold a prompt: show it to nobody.

    ``id`` is the job's id where the message names one, else a digest of it. ``queue``
    is the logical queue, ``died_at`` None when the broker does not say.
    """

    id: str
    queue: str
    source: str | None
    reason: str
    died_at: datetime | None
    org: str | None
    model: str | None
    work_class: str | None
    persona: str | None
    body: bytes = field(repr=False)

    @property
    def why(self) -> str:
        """The broker's reason as a sentence."""
        return REASONS.get(self.reason, f"the broker says {self.reason!r}")

    def task(self) -> InferenceTask:
        """What it asks for; raises `CodecError` when it is no task."""
        return envelope.unpack(self.body)


Decide = Callable[[DeadLetter], bool]
"""Looks at a letter; True removes it for good."""


class DeadLetters:
    """The dead-letter queues, each operation on a connection of its own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def visit(self, queues: Iterable[str], decide: Decide) -> int:
        """Show ``decide`` the letters of logical queues; how many it removed.

        Raises `BrokerDown`. In memory a rejected message is dropped: nothing is there.
        """
        if broker.is_memory(self._url):
            return 0
        try:
            with BlockingConnection(_parameters(self._url)) as connection:
                return sum(_visit(connection, queue, decide) for queue in queues)
        except (AMQPError, OSError) as error:
            raise BrokerDown(
                "the message broker did not answer about dead letters "
                f"({type(error).__name__}); try again in a moment",
                retry_after_s=5,
            ) from error


def _parameters(url: str) -> ConnectionParameters:
    # Without heartbeats: it lives for one operation.
    found = broker.parameters(url, "genie-dead-letters", heartbeat_s=0)
    found.stack_timeout = TIMEOUT_S
    found.blocked_connection_timeout = TIMEOUT_S
    return found


def _visit(connection: BlockingConnection, queue: str, decide: Decide) -> int:
    channel, wanted = connection.channel(), queues.dead_letter_queue(queue)
    # Declared, not asked for: of a queue that is not there yet pika logs an error.
    found = channel.queue_declare(
        wanted.name, durable=True, arguments=dict(wanted.arguments)
    )
    removed = _look(channel, queue, found.method.message_count, decide)
    channel.close()  # what was not acked is back in its place
    return removed


def _look(channel: BlockingChannel, queue: str, count: int, decide: Decide) -> int:
    removed = seen_bytes = 0
    for _ in range(min(count, LOOK_MOST)):
        method, properties, body = channel.basic_get(topology.dead_letters(queue))
        if method is None:
            break
        seen_bytes += len(body)
        if decide(_letter(queue, properties, body)):
            channel.basic_ack(method.delivery_tag)
            removed += 1
        if seen_bytes > LOOK_MOST_BYTES:
            break
    return removed


def _letter(queue: str, properties: BasicProperties, body: bytes) -> DeadLetter:
    headers: Mapping[str, object] = properties.headers or {}
    deaths = headers.get("x-death")
    death = deaths[0] if isinstance(deaths, list) and deaths else {}
    return DeadLetter(
        id=_text(headers.get("id"))
        or f"letter-{hashlib.sha256(body).hexdigest()[:20]}",
        queue=queue,
        source=_text(death.get("queue")),
        reason=_text(death.get("reason")) or "unknown",
        died_at=_moment(death.get("time")),
        org=_text(headers.get("org")),
        model=_text(headers.get("model")),
        work_class=_text(headers.get("class")),
        persona=_text(headers.get("persona")),
        body=body,
    )


def _text(value: object) -> str | None:
    """A header anybody may have written, as a short printable name."""
    if not isinstance(value, str) or not value.isprintable():
        return None
    return value[:NAME_MOST] or None


def _moment(value: object) -> datetime | None:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else None
