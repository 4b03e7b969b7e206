"""Publish with confirms; what the broker did not confirm was not accepted."""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

import msgspec
from kombu.exceptions import LimitExceeded
from kombu.pools import Connections

from cloud_app.bus.dead_letters import DeadLetters
from cloud_app.bus.replies import OutgoingMessage, ReplyRouter
from genie import topology
from genie.contracts import codec
from genie.contracts.inference import InferenceTask, PartialAnswer, WorkClass
from genie.errors import BrokerDown
from genie.messaging import broker, envelope
from genie.messaging.publisher import failures

if TYPE_CHECKING:
    from kombu.transport.base import StdChannel

T = TypeVar("T")

CONFIRM_TIMEOUT_S = 5.0
POOL_SIZE = 8
POOL_WAIT_S = 5.0
RETRY_S = 5.0
"""How long dead connections of the pool are tried one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """One broker queue now: messages that wait, and open credits (consumers)."""

    queue: str
    model: str
    work_class: WorkClass
    waiting: int
    consumers: int


class Bus:
    """Publishes from any thread over a small pool of connections.

    Connections open on first use, so a process may fork before it publishes.
    """

    def __init__(self, url: str, *, name: str = "genie-cloud") -> None:
        self._url = url
        self.dead = DeadLetters(url)
        # No heartbeat: an idle pooled connection is read by nobody.
        self._template = broker.connection(url, name=name, heartbeat_s=0)
        self._pool = Connections(limit=POOL_SIZE)[self._template]
        self._declared: set[str] = set()
        self._lock = Lock()

    def publish(self, task: InferenceTask) -> None:
        """Hand a task to its model's queue, durable, confirmed and routable.

        Raises `BrokerDown` when the broker did not take it and `TooLarge` over the
        size limit.
        """
        body, headers = envelope.pack(task), envelope.headers(task)
        queue = broker.model_queue(task.queue, task.model, task.work_class)

        def send(channel: "StdChannel") -> None:
            self._declare(channel, task)
            _publish(
                channel,
                body,
                exchange=queue.exchange.name,
                routing_key=queue.routing_key,
                headers=headers,
                properties={"correlation_id": task.job_id},
            )

        self._with_channel(send)

    def ask(self, task: InferenceTask, replies: ReplyRouter) -> None:
        """`publish` a task somebody waits for, without waiting for the confirm if that
        can be done: ``replies`` then says in its inbox if it did not come."""
        name = topology.model_queue(task.queue, task.model, task.work_class)
        if name not in self._declared:
            self.publish(task)
            return
        post = OutgoingMessage(
            exchange=task.queue,
            key=topology.routing_key(task.model, task.work_class),
            body=envelope.pack(task),
            headers=envelope.headers(task),
        )
        if not replies.publish(task.job_id, post):
            self.publish(task)

    def nudge(self, worker_id: str) -> None:
        """Ask a worker to heartbeat now: the placement task of the planner."""
        self._control(worker_id, topology.TASK_NUDGE, {})

    def cancel(self, worker_id: str, job_id: str) -> None:
        """Ask a worker to stop a job, running or not yet started there."""
        self._control(worker_id, topology.TASK_CANCEL, {"job_id": job_id})

    def resume(
        self, worker_id: str, job_id: str, answers: tuple[PartialAnswer, ...]
    ) -> None:
        """Ask a worker that began a job anew to go on after ``answers`` instead."""
        given = [codec.builtins(one) for one in answers]
        kwargs = {"job_id": job_id, "answers": given}
        self._control(worker_id, topology.TASK_RESUME, kwargs)

    def say(self, worker_id: str, job_id: str, to: str, name: str) -> None:
        """Ask a worker to tell ``to``, under ``name``, what is written of a job."""
        kwargs = {"job_id": job_id, "to": to, "name": name}
        self._control(worker_id, topology.TASK_SAY, kwargs)

    def depths(
        self, queues: Iterable[tuple[str, str, WorkClass]]
    ) -> tuple[QueueDepth, ...]:
        """Ready messages and consumers of each (queue, model, class), asked now."""
        return tuple(self._depth(*wanted) for wanted in queues)

    def is_listening(self, worker_id: str) -> bool:
        """Whether a worker's connection is up: only it consumes its control queue.

        In memory, where a worker is a part of this process, always.
        """
        if broker.is_memory(self._url):
            return True

        def ask(channel: "StdChannel") -> bool:
            broker.control_queue(worker_id)(channel).declare()
            name = topology.control_queue(worker_id)
            return bool(channel.queue_declare(queue=name, passive=True).consumer_count)

        return self._with_channel(ask)

    def ping(self) -> None:
        """Raises `BrokerDown` unless the broker answers."""
        self._with_channel(lambda channel: None)

    def close(self) -> None:
        """Close the pool's connections."""
        self._pool.force_close_all()

    def _depth(self, queue: str, model: str, work_class: WorkClass) -> QueueDepth:
        def ask(channel: "StdChannel") -> tuple[int, int]:
            broker.declare_model_queue(channel, queue, model, work_class)
            name = topology.model_queue(queue, model, work_class)
            found = channel.queue_declare(queue=name, passive=True)
            return found.message_count, found.consumer_count

        waiting, consumers = self._with_channel(ask)
        return QueueDepth(
            queue=queue,
            model=model,
            work_class=work_class,
            waiting=waiting,
            consumers=consumers,
        )

    def _control(self, worker_id: str, task: str, kwargs: Mapping[str, object]) -> None:
        task_id = uuid.uuid4().hex
        headers = {
            "lang": "py",
            "task": task,
            "id": task_id,
            "root_id": task_id,
            "argsrepr": "-",
            "kwargsrepr": "-",
            "ignore_result": True,
        }
        body = msgspec.json.encode([[], kwargs, {}])

        def send(channel: "StdChannel") -> None:
            broker.control_queue(worker_id)(channel).declare()
            _publish(
                channel,
                body,
                exchange="",
                routing_key=topology.control_queue(worker_id),
                headers=headers,
                properties={"correlation_id": task_id, "expiration": "60000"},
            )

        self._with_channel(send)

    def _declare(self, channel: "StdChannel", task: InferenceTask) -> None:
        name = topology.model_queue(task.queue, task.model, task.work_class)
        if name in self._declared:
            return
        broker.declare_model_queue(channel, task.queue, task.model, task.work_class)
        with self._lock:
            self._declared.add(name)

    def _with_channel(self, use: "Callable[[StdChannel], T]") -> T:
        """Run ``use``; again while pooled connections turn out to have died.

        A broker that restarted leaves a whole pool of them, and may have lost queues.
        A connection opened just now that fails is the broker's own word, and final.
        """
        give_up_at = time.monotonic() + RETRY_S
        while True:
            try:
                return self._once(use)
            except _StaleResource as stale:
                if time.monotonic() > give_up_at:
                    raise _down(stale) from stale
            except LimitExceeded as error:
                raise _down(error) from error

    def _once(self, use: "Callable[[StdChannel], T]") -> T:
        with self._pool.acquire(block=True, timeout=POOL_WAIT_S) as connection:
            is_guess = connection.connected or bool(self._declared)
            is_sound = False
            try:
                broker.connect(connection)
                result = use(connection.default_channel)
                is_sound = True
            except failures(connection) as error:
                self._declared.clear()  # a broker that came back may have lost queues
                raise (_StaleResource() if is_guess else _down(error)) from error
            finally:
                if not is_sound:  # a connection in doubt must not serve the next one
                    connection.collect()
            return result


class _StaleResource(Exception):
    """What we held to be there, a connection or a queue, was not; try once more."""


def _down(error: Exception) -> BrokerDown:
    reason = type(error.__cause__ or error).__name__
    return BrokerDown(
        f"the message broker did not take the work ({reason}); "
        "nothing was accepted, try again in a moment",
        retry_after_s=5,
    )


def _publish(
    channel: "StdChannel",
    body: bytes,
    *,
    exchange: str,
    routing_key: str,
    headers: dict[str, str | int | None] | dict[str, object],
    properties: dict[str, object],
) -> None:
    message = channel.prepare_message(
        body,
        content_type=envelope.CONTENT_TYPE,
        content_encoding="utf-8",
        headers=headers,
        properties={"delivery_mode": 2, **properties},
    )
    if hasattr(channel, "basic_publish_confirm"):
        channel.basic_publish_confirm(
            message,
            exchange=exchange,
            routing_key=routing_key,
            mandatory=True,
            confirm_timeout=CONFIRM_TIMEOUT_S,
        )
        return
    channel.basic_publish(message, exchange=exchange, routing_key=routing_key)
