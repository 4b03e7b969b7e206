"""How long a killed consumer's messages take to another: ours, and raw pika's.

Both count from the kill -9 to the moment the asker hears that another has it, and both
listen meanwhile: to wait until the killed process is gone takes longer than either.
"""

import os
import signal
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pika

from benchmarks.common import pika_hold, site
from cloud_app.bus import Bus, JobInbox, ReplyRouter
from fixtures.process import ServerProcess
from genie.contracts.inference import AttemptStarted

REPLIES = "amq.rabbitmq.reply-to"
PATIENCE_S = 30.0
LOOK_S = 0.0005
CALM_S = 0.3
"""Between the probes' start and the kill: just after a burst nobody asks for more."""
HOLDERS = ("one", "other")


def of_pika(url: str, count: int) -> list[float]:
    """Seconds until each message of a killed holder was taken by the other."""
    queue = f"bench.hold.{uuid.uuid4().hex}"
    with ExitStack() as stack:
        asker = _PikaAsker(url, queue)
        stack.callback(asker.close)
        holders = {
            name: stack.enter_context(
                site.program("python", pika_hold.__file__, url, queue, name)
            )
            for name in HOLDERS
        }
        asker.wait_consumers(len(holders))
        taken = asker.ask(count)
        victim = max(taken, key=lambda name: len(taken[name]))
        return asker.after_kill(holders[victim], taken[victim])


class _PikaAsker:
    """Publishes, and hears who took what and when."""

    def __init__(self, url: str, queue: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._queue = queue
        self._channel.queue_declare(queue)
        self._channel.basic_consume(REPLIES, self._hear, auto_ack=True)
        self._heard: list[tuple[float, str, str]] = []

    def wait_consumers(self, count: int) -> None:
        """Return once so many consume."""
        deadline = time.monotonic() + PATIENCE_S
        while self._consumers() < count:
            if time.monotonic() > deadline:
                raise TimeoutError("the consumers of raw pika did not start")
            time.sleep(0.02)

    def ask(self, count: int) -> dict[str, set[str]]:
        """Publish so many; who took which of them."""
        for number in map(str, range(count)):
            asking = pika.BasicProperties(
                reply_to=REPLIES, correlation_id=number, delivery_mode=2
            )
            self._channel.basic_publish("", self._queue, b"hold me", asking)
        self._wait(count)
        taken: dict[str, set[str]] = defaultdict(set)
        for _at, name, number in self._heard:
            taken[name].add(number)
        return taken

    def after_kill(self, holder: ServerProcess, held: set[str]) -> list[float]:
        """Kill; seconds until each held message was taken by the other."""
        self._heard.clear()
        killed_at = time.monotonic()
        os.kill(holder.pid, signal.SIGKILL)
        self._wait(len(held))
        return [at - killed_at for at, _name, number in self._heard if number in held]

    def close(self) -> None:
        """Remove the queue and close."""
        self._channel.queue_delete(self._queue)
        self._connection.close()

    def _consumers(self) -> int:
        found = self._channel.queue_declare(self._queue, passive=True)
        return int(found.method.consumer_count)

    def _wait(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(self._heard) < count:
            if time.monotonic() > deadline:
                raise TimeoutError("raw pika did not redeliver")
            self._connection.process_data_events(time_limit=0.05)

    def _hear(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        heard = (time.monotonic(), body.decode(), properties.correlation_id)
        self._heard.append(heard)


class Probes:
    """Requests at the broker, to see a worker's death from where its work waits."""

    def __init__(self, here: site.Site, *, tokens: int) -> None:
        self._here, self._tokens = here, tokens
        self._bus, self._replies = Bus(here.broker_url), ReplyRouter(here.broker_url)

    def close(self) -> None:
        """Close the connections."""
        self._replies.close()
        self._bus.close()

    def after_kill(self, count: int) -> tuple[str, list[float]]:
        """Kill the worker that has most of so many; its name, and seconds until each
        of its requests was begun by another."""
        with self._asked(count) as inboxes:
            began = {job: _started(inbox) for job, inbox in inboxes.items()}
            held: dict[str, list[str]] = defaultdict(list)
            for job, event in began.items():
                held[event.worker].append(job)
            victim = max(held, key=lambda name: len(held[name]))
            time.sleep(CALM_S)
            killed_at = time.monotonic()
            self._here.fleet.kill_leader(victim)
            again = list(_redelivered({job: inboxes[job] for job in held[victim]}))
            self._here.fleet.kill(victim)  # what is left of it
            return victim, [at - killed_at for at in again]

    @contextmanager
    def _asked(self, count: int) -> Iterator[dict[str, JobInbox]]:
        tasks = [
            site.task(f"probe {n}", reply_to=self._replies.name, tokens=self._tokens)
            for n in range(count)
        ]
        inboxes = {one.job_id: self._replies.expect(one.job_id) for one in tasks}
        try:
            for one in tasks:
                self._bus.publish(one)
            yield inboxes
        finally:
            for job in inboxes:
                self._replies.forget(job)


def _started(inbox: JobInbox) -> AttemptStarted:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        event = inbox.get(1.0)
        if isinstance(event, AttemptStarted):
            return event
    raise TimeoutError("no worker began a probe")


def _redelivered(inboxes: dict[str, JobInbox]) -> Iterator[float]:
    """When each job was begun again."""
    waiting = dict(inboxes)
    deadline = time.monotonic() + PATIENCE_S
    while waiting:
        if time.monotonic() > deadline:
            raise TimeoutError("a probe of the killed worker was not begun again")
        time.sleep(LOOK_S)
        for job, inbox in tuple(waiting.items()):
            event = inbox.get(0.0)
            if isinstance(event, AttemptStarted) and event.redelivered:
                del waiting[job]
                yield time.monotonic()
