"""A worker's data plane with the echo engine, and an asker to try it with.

Run as a module it is a worker of its own, to be killed:
``python -m integration.worker_rig amqp://… NAME MS_PER_TOKEN SLOTS``.
"""

import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self

from fixtures.engines import EchoEngine
from fixtures.fleet import wait_until
from genie import topology
from genie.contracts import codec
from genie.contracts.inference import (
    AttemptStarted,
    Chunk,
    Event,
    InferenceTask,
    Message,
    Outcome,
    Sampling,
    WorkClass,
)
from genie.messaging import broker, envelope, queues
from genie.messaging.link import BrokerMessage, LinkEvents, Publication, QueueCount
from genie.messaging.publisher import Publisher
from workers.bidding.consumers import DataPlane
from workers.engine.protocol import LoadedEngine
from workers.serving.attempt import WorkerIdentity
from workers.serving.reports import EventReporter
from workers.serving.serving import Serving

MODEL = "echo:small"
FINGERPRINT = "gf1-echo"
PATIENCE_S = 20.0


class Rig:
    """Serving and data plane of one worker, without an agent."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        slots: int = 4,
        ms_per_token: float = 0.0,
        queues: tuple[str, ...] = (topology.SHARED,),
        models: tuple[str, ...] = (MODEL,),
    ) -> None:
        self._engines = {
            model: EchoEngine(model=model, slots=slots, ms_per_token=ms_per_token)
            for model in models
        }
        self.engine = self._engines[models[0]]
        self._ready = {
            model: LoadedEngine(engine=engine, fingerprint=FINGERPRINT, peak_bytes=0)
            for model, engine in self._engines.items()
        }
        self._post = Publisher(url, name=f"{name}.post")
        self.serving = Serving(
            WorkerIdentity(worker_id=name, name=name),
            EventReporter(self._post),
            ready=lambda: self._ready,
            on_slot=self._slot,
            on_served=lambda _model: None,
        )
        self.plane = DataPlane(url, name=name, queues=queues, serving=self.serving)

    def __enter__(self) -> Self:
        self._post.start()
        self.plane.start()
        self.wait_connected()
        return self

    def wait_connected(self) -> None:
        """Wait until the data plane's connection is up, however often it fails."""
        up = self.plane._link.wait_up
        wait_until(lambda: up(1.0), PATIENCE_S, "the data plane is connected")

    @property
    def is_connected(self) -> bool:
        """True while the data plane's connection is up."""
        return self.plane._link.is_up

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.plane.close_credits()
        self.serving.wait_idle(None, 5.0)
        for engine in self._engines.values():
            engine.close()
        self._post.stop()
        self.plane.stop()

    def has_told(self) -> bool:
        """True when the broker has confirmed all that was to be told."""
        return self._post._is_done()

    def _slot(self, like: InferenceTask) -> None:
        self.plane.slot_freed(like.model, like.work_class)


class Asker:
    """Publishes tasks and hears everything said of them, with the time of each."""

    def __init__(self, url: str) -> None:
        self.id = uuid.uuid4().hex[:8]
        self.url = url
        self._heard: list[tuple[float, str, Event]] = []
        self._news = threading.Condition()
        self._listening = threading.Semaphore(0)
        self._link = broker.connect(url, "asker", LinkEvents(up=self._listen))

    def __enter__(self) -> Self:
        self._link.start()
        for _ in range(2):
            assert self._listening.acquire(timeout=PATIENCE_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._link.close()

    @property
    def reply_to(self) -> str:
        """Where the answers go."""
        return topology.reply_queue(self.id)

    def ask(self, text: str = "one two three", **changes: Any) -> str:
        """Publish one task; returns its job id."""
        job_id = uuid.uuid4().hex[:26]
        now = datetime.now(UTC)
        task = InferenceTask(
            **{
                "job_id": job_id,
                "org": "acme",
                "queue": topology.SHARED,
                "model": MODEL,
                "work_class": WorkClass.INTERACTIVE,
                "created_at": now,
                "deadline_at": now + timedelta(seconds=60),
                "sampling": Sampling(),
                "messages": (Message(role="user", content=text),),
                "reply_to": self.reply_to,
                **changes,
            }
        )
        self.publish(task, envelope.pack(task))
        return job_id

    def publish(self, task: InferenceTask, body: bytes) -> None:
        """Publish ``body`` where ``task`` belongs."""
        queue = queues.model_queue(task.queue, task.model, task.work_class)
        publication = Publication(
            exchange=queue.exchange,
            key=queue.routing_key,
            body=body,
            confirmed=True,
            headers=envelope.headers(task),
        )
        told: Future[Exception | None] = Future()

        def send(found: QueueCount | Exception) -> None:
            assert isinstance(found, QueueCount), found
            assert self._link.send(publication, told.set_result)

        self._link.declare(queue, send)
        assert told.result(PATIENCE_S) is None

    def events(self, job_id: str, queue: str | None = None) -> list[Event]:
        """What was said of a job so far, on the reply queue unless told."""
        wanted = queue or self.reply_to
        with self._news:
            return [
                event
                for _at, where, event in self._heard
                if event.job_id == job_id and where == wanted
            ]

    def times(self, job_ids: Iterable[str], kind: type[Event]) -> list[float]:
        """When events of one kind arrived, in order, in monotonic seconds."""
        wanted = set(job_ids)
        with self._news:
            return [
                at
                for at, where, event in self._heard
                if event.job_id in wanted
                and isinstance(event, kind)
                and where == self.reply_to
            ]

    def outcome(self, job_id: str, queue: str | None = None) -> Outcome:
        """Wait for a job's outcome."""
        found = self.wait(job_id, Outcome, queue)
        assert isinstance(found, Outcome)
        return found

    def started(self, job_id: str) -> AttemptStarted:
        """Wait until a job runs."""
        found = self.wait(job_id, AttemptStarted)
        assert isinstance(found, AttemptStarted)
        return found

    def text(self, job_id: str) -> str:
        """The chunks of a job, joined."""
        chunks = (e for e in self.events(job_id) if isinstance(e, Chunk))
        return "".join(chunk.text for chunk in chunks)

    def wait(self, job_id: str, kind: type[Event], queue: str | None = None) -> Event:
        """Wait for the first event of a kind."""
        found: list[Event] = []

        def seen() -> bool:
            found[:] = [e for e in self.events(job_id, queue) if isinstance(e, kind)]
            return bool(found)

        self.wait_until(seen)
        return found[0]

    def wait_until(self, seen: Callable[[], bool]) -> None:
        """Wait until ``seen`` says so; fails after a bound."""
        with self._news:
            assert self._news.wait_for(seen, PATIENCE_S), self._heard

    def _listen(self) -> None:
        for queue in (queues.reply_queue(self.id), queues.outcomes_queue()):
            self._link.declare(queue, partial(self._consume, queue.name))

    def _consume(self, name: str, _found: object) -> None:
        hear = partial(self._hear, name)
        self._link.consume(name, hear, ready=self._listening.release)

    def _hear(self, where: str, message: BrokerMessage) -> None:
        events = codec.decode_events(message.body)
        with self._news:
            now = time.monotonic()
            self._heard += [(now, where, event) for event in events]
            self._news.notify_all()


def main(url: str, name: str, ms_per_token: str, slots: str) -> None:
    """Be a worker until killed."""
    with Rig(url, name, ms_per_token=float(ms_per_token), slots=int(slots)):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        # Nobody reads on, and a full pipe would hold up whoever logs.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
