"""Queues by name, with the reason for each setting that matters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pika
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker

from genie import topology
from genie.contracts.inference import WorkClass
from genie.messaging import iothread
from genie.messaging.link import Counted, LinkLost, QueueCount, Refused

CLASSIC: Mapping[str, object] = {"x-queue-type": "classic"}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """A queue, the exchange it is bound to, and where its dead letters go.

    Without an ``exchange`` only the default one leads to it, by its name; without a
    name it is the exchange alone.
    """

    name: str
    exchange: str = ""
    routing_key: str = ""
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    arguments: Mapping[str, object] = field(default_factory=dict)
    dead: "QueueSpec | None" = None

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from all others."""
        return self.exchange, self.name


@lru_cache(1024)  # each message to a queue needs its name, and each name is long made
def model_queue(queue: str, model: str, work_class: WorkClass) -> QueueSpec:
    """The broker queue of one model and class behind a logical queue."""
    return QueueSpec(
        name=topology.model_queue(queue, model, work_class),
        exchange=queue,
        routing_key=topology.routing_key(model, work_class),
        arguments=_arguments(queue, work_class),
        dead=dead_letter_queue(queue),
    )


def _arguments(queue: str, work_class: WorkClass) -> dict[str, object]:
    arguments = _dead_lettered(queue)
    if work_class is WorkClass.INTERACTIVE:
        # Classic: opening or closing a credit takes 0.4 ms; on quorum, a Raft round.
        return {**arguments, **CLASSIC}
    return {
        **arguments,
        "x-queue-type": "quorum",
        "x-delivery-limit": topology.DELIVERY_LIMIT,
        "x-overflow": "reject-publish",  # at-least-once dead-lettering requires it
        "x-dead-letter-strategy": "at-least-once",
    }


def _dead_lettered(queue: str) -> dict[str, object]:
    dead = topology.dead_letters(queue)
    return {"x-dead-letter-exchange": dead, "x-dead-letter-routing-key": dead}


def bidders_queue(queue: str, model: str) -> QueueSpec:
    """Its consumers are the bidders of a model: counted, and told of each other."""
    return QueueSpec(
        name=topology.bidders(queue, model),
        arguments={**CLASSIC, "x-expires": 86_400_000},
    )


def dead_letter_queue(queue: str) -> QueueSpec:
    """Where a logical queue's undeliverable messages go, with the broker's reason."""
    name = topology.dead_letters(queue)
    return QueueSpec(name=name, exchange=name, routing_key=name, arguments=CLASSIC)


def outcomes_queue() -> QueueSpec:
    """The cloud's queue of started and outcome events.

    The release before publishes to it by its name; `topology.EVENTS` leads there too.
    """
    return QueueSpec(
        name=topology.OUTCOMES,
        exchange=topology.EVENTS,
        routing_key=topology.OUTCOMES,
        arguments={**CLASSIC, **_dead_lettered(topology.OUTCOMES)},
        dead=dead_letter_queue(topology.OUTCOMES),
    )


def control_queue(worker_id: str) -> QueueSpec:
    """One worker's own queue; it goes away a day after its worker did."""
    return QueueSpec(
        name=topology.control_queue(worker_id), arguments={"x-expires": 86_400_000}
    )


def replies() -> QueueSpec:
    """The exchange that leads to whoever asked."""
    return QueueSpec(name="", exchange=topology.REPLIES)


def reply_queue(asker_id: str) -> QueueSpec:
    """One web process's own queue; it goes away with the connection."""
    name = topology.reply_queue(asker_id)
    return QueueSpec(
        name=name,
        exchange=topology.REPLIES,
        routing_key=name,
        durable=False,
        exclusive=True,
        auto_delete=True,
    )


class Declaration:
    """Declares a queue, with its exchange and dead letters, and counts it."""

    def __init__(
        self, connection: pika.SelectConnection, queue: QueueSpec, done: Counted
    ) -> None:
        self._queue, self._done = queue, done
        self._is_told = False
        self._channel = connection.channel(on_open_callback=self._opened)
        self._channel.add_on_close_callback(self._closed)

    def _opened(self, channel: Channel) -> None:
        queue = self._queue
        if not queue.name:
            channel.exchange_declare(
                queue.exchange,
                "direct",
                durable=True,
                callback=lambda _frame: self._tell(QueueCount(waiting=0, consumers=0)),
            )
            return
        if queue.dead is not None:
            self._declare(channel, queue.dead)
        self._declare(channel, queue, self._declared)

    def _declare(
        self,
        channel: Channel,
        queue: QueueSpec,
        declared: Callable[[Any], None] | None = None,
    ) -> None:
        if queue.exchange:
            channel.exchange_declare(queue.exchange, "direct", durable=True)
        channel.queue_declare(
            queue.name,
            durable=queue.durable,
            exclusive=queue.exclusive,
            auto_delete=queue.auto_delete,
            arguments=dict(queue.arguments),
            callback=declared,
        )
        if queue.exchange and declared is None:
            self._bind(channel, queue)

    def _declared(self, told: Any) -> None:
        found = QueueCount(
            waiting=told.method.message_count, consumers=told.method.consumer_count
        )
        if self._queue.exchange:
            self._bind(self._channel, self._queue, lambda _frame: self._tell(found))
        else:
            self._tell(found)

    def _bind(
        self,
        channel: Channel,
        queue: QueueSpec,
        bound: Callable[[Any], None] | None = None,
    ) -> None:
        key = queue.routing_key
        channel.queue_bind(queue.name, queue.exchange, key, callback=bound)

    def _closed(self, _channel: Channel, error: Exception) -> None:
        if isinstance(error, ChannelClosedByBroker):
            why = f"the broker refused queue {self._queue.name!r}: {error.reply_text}"
            self._tell(Refused(why))
        else:
            self._tell(LinkLost("the connection was lost before the broker's answer"))

    def _tell(self, found: QueueCount | Exception) -> None:
        if self._is_told:
            return
        self._is_told = True
        if self._channel.is_open:
            self._channel.close()
        iothread.thread().guard(lambda: self._done(found))
