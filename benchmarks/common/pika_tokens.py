"""One message per token through raw pika: publish them paced, or consume them.

``pika_tokens.py URL publish STREAMS TOKENS MS_PER_TOKEN`` or ``… consume STREAMS
TOKENS``; both print the CPU seconds they took.
"""

import json
import sys
import time
from typing import Any

import pika

QUEUE = "bench.tokens"


def publish(channel: Any, streams: int, tokens: int, every_s: float) -> None:
    """Each tick one message for each stream."""
    due = time.monotonic()
    for at in range(tokens):
        for stream in range(streams):
            event = {"job_id": f"{stream:026}", "seq": at, "text": " word", "tokens": 1}
            channel.basic_publish("", QUEUE, json.dumps(event).encode())
        due += every_s
        time.sleep(max(0.0, due - time.monotonic()))


def consume(channel: Any, count: int) -> None:
    """Read that many messages."""
    heard = channel.consume(QUEUE, auto_ack=True)
    for _ in range(count):
        _method, _properties, body = next(heard)
        json.loads(body)


def main(url: str, role: str, streams: str, tokens: str, ms: str = "0") -> None:
    """Take one part and print its CPU seconds."""
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.queue_declare(QUEUE)
    started = time.process_time()
    if role == "publish":
        publish(channel, int(streams), int(tokens), float(ms) / 1000)
    else:
        consume(channel, int(streams) * int(tokens))
    print(time.process_time() - started, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
