"""Raw pika that takes messages, says so, and holds them unacked until killed."""

import sys
from typing import Any

import pika

PREFETCH = 64


def hold(url: str, queue: str, name: str) -> None:
    """Take, say so, ack nothing."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=PREFETCH)

    def take(channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        told = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, name.encode(), told)

    channel.basic_consume(queue, take)
    channel.start_consuming()


if __name__ == "__main__":
    hold(*sys.argv[1:])
