"""Making sure of one queue at RabbitMQ, and counting it."""

from collections.abc import Callable
from typing import Any

import pika
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker

from genie.messaging import iothread
from genie.messaging.link import Counted, LinkLost, QueueCount, Refused
from genie.messaging.queues import QueueSpec


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
