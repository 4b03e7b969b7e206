"""Publish with confirms; what the broker did not confirm was not accepted."""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TypeVar

import msgspec

from cloud_app.bus.dead_letters import DeadLetters
from cloud_app.bus.replies import ReplyRouter
from genie import topology
from genie.contracts import codec
from genie.contracts.inference import InferenceTask, PartialAnswer, WorkClass
from genie.errors import BrokerDown
from genie.messaging import broker, envelope, queues
from genie.messaging.link import (
    BrokerBlocked,
    LinkError,
    LinkEvents,
    LinkLost,
    Publication,
    QueueCount,
    Refused,
    Unroutable,
)
from genie.messaging.queues import QueueSpec

T = TypeVar("T")

CONNECT_S = 4.0
CONFIRM_TIMEOUT_S = 5.0
RETRY_S = 5.0
"""For how long what was lost with a connection is tried on the next one."""

CONTROL_S = 60
"""A nudge nobody took for so long is not worth hearing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """One broker queue now: messages that wait, and open credits (consumers)."""

    queue: str
    model: str
    work_class: WorkClass
    waiting: int
    consumers: int


class Bus:
    """Publishes from any thread; all share one connection.

    It opens on first use, so a process may fork before it publishes.
    """

    def __init__(self, url: str, *, name: str = "genie-cloud") -> None:
        self.dead = DeadLetters(url)
        self._declared: set[str] = set()
        events = LinkEvents(down=self._declared.clear)  # it may have lost its queues
        self._link = broker.connect(url, name, events)

    def publish(self, task: InferenceTask) -> None:
        """Hand a task to its model's queue, durable, confirmed and routable.

        Raises `BrokerDown` when the broker did not take it and `TooLarge` over the
        size limit.
        """
        queue = queues.model_queue(task.queue, task.model, task.work_class)
        self._deliver(queue, _publication(task))

    def ask(self, task: InferenceTask, replies: ReplyRouter) -> None:
        """`publish` a task somebody waits for, without waiting for the confirm if that
        can be done: ``replies`` then says in its inbox if it did not come."""
        name = topology.model_queue(task.queue, task.model, task.work_class)
        if name in self._declared and replies.publish(_publication(task)):
            return
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
        """Whether a worker's connection is up: only it consumes its control queue."""
        return bool(self._count(queues.control_queue(worker_id)).consumers)

    def ping(self) -> None:
        """Raises `BrokerDown` unless the broker answers."""
        self._count(queues.replies())

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _depth(self, queue: str, model: str, work_class: WorkClass) -> QueueDepth:
        found = self._count(queues.model_queue(queue, model, work_class))
        return QueueDepth(
            queue=queue,
            model=model,
            work_class=work_class,
            waiting=found.waiting,
            consumers=found.consumers,
        )

    def _count(self, queue: QueueSpec) -> QueueCount:
        return self._again(lambda: self._declare(queue))

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
        publication = Publication(
            key=topology.control_queue(worker_id),
            body=msgspec.json.encode([[], kwargs, {}]),
            confirmed=True,
            headers=headers,
            correlation_id=task_id,
            expires_ms=CONTROL_S * 1000,
        )
        self._deliver(queues.control_queue(worker_id), publication)

    def _deliver(self, queue: QueueSpec, publication: Publication) -> None:
        def deliver() -> None:
            if queue.name not in self._declared:
                self._declare(queue)
                self._declared.add(queue.name)
            self._send(publication)

        self._again(deliver)

    def _again(self, use: Callable[[], T]) -> T:
        """Run ``use``; again while what we held to be there turns out to be gone.

        A broker that restarted leaves a connection, and queues, that are no more. One
        that cannot be reached now is away, and that is final.
        """
        give_up_at = time.monotonic() + RETRY_S
        while True:
            if not self._link.wait_up(CONNECT_S):
                raise _down(LinkLost("the broker is away"))
            try:
                return use()
            except (LinkLost, Unroutable) as error:
                self._declared.clear()
                if time.monotonic() > give_up_at:
                    raise _down(error) from error
            except LinkError as error:
                raise _down(error) from error

    def _declare(self, queue: QueueSpec) -> QueueCount:
        told: SimpleQueue[QueueCount | Exception] = SimpleQueue()
        self._link.declare(queue, told.put)
        return _answer(told)

    def _send(self, publication: Publication) -> None:
        told: SimpleQueue[Exception | None] = SimpleQueue()
        if not self._link.send(publication, told.put):
            if self._link.is_up:
                raise BrokerBlocked("the broker blocks publishes")
            raise LinkLost("the connection went")
        _answer(told)


def _answer(told: SimpleQueue[T | Exception]) -> T:
    try:
        answer = told.get(timeout=CONFIRM_TIMEOUT_S)
    except Empty as error:
        raise Refused("the broker did not answer in time") from error
    if isinstance(answer, Exception):
        raise answer
    return answer


def _publication(task: InferenceTask) -> Publication:
    return Publication(
        exchange=task.queue,
        key=topology.routing_key(task.model, task.work_class),
        body=envelope.pack(task),
        confirmed=True,
        headers=envelope.headers(task),
        correlation_id=task.job_id,
    )


def _down(error: Exception) -> BrokerDown:
    return BrokerDown(
        f"the message broker did not take the work ({type(error).__name__}); "
        "nothing was accepted, try again in a moment",
        retry_after_s=5,
    )
