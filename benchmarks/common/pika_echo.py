"""The least that answers through RabbitMQ: consume, reply where asked, ack."""

import sys
from typing import Any

import pika

QUEUE = "bench.echo"
PREFETCH = 100
REPLIES = "amq.rabbitmq.reply-to"


class Caller:
    """Direct reply-to RPC from one thread."""

    def __init__(self, url: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._channel.queue_declare(QUEUE)
        self._channel.basic_consume(REPLIES, self._hear, auto_ack=True)
        self._answers: list[bytes] = []

    def call(self, body: bytes) -> bytes:
        """The echo of ``body``."""
        asking = pika.BasicProperties(reply_to=REPLIES)
        self._channel.basic_publish("", QUEUE, body, asking)
        while not self._answers:
            self._connection.process_data_events(time_limit=None)
        return self._answers.pop()

    def send(self, body: bytes) -> None:
        """A message nobody waits for."""
        self._channel.basic_publish("", QUEUE, body)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _hear(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        self._answers.append(body)


def serve(url: str) -> None:
    """Echo until killed."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare(QUEUE)
    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(QUEUE, echo)
    channel.start_consuming()


def echo(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    """Reply if somebody waits, then ack."""
    if properties.reply_to is not None:
        channel.basic_publish("", properties.reply_to, body)
    channel.basic_ack(method.delivery_tag)


if __name__ == "__main__":
    serve(sys.argv[1])
