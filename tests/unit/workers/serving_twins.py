"""Twins for the tests of serving: a recording mail box and an engine on strings."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from fixtures.engines import EchoEngine
from genie import topology
from genie.contracts import codec
from genie.contracts.inference import (
    AnswerExtras,
    Event,
    Fault,
    FinishReason,
    InferenceTask,
    Message,
    Outcome,
    SampledToken,
    Sampling,
    Usage,
    WorkClass,
)
from genie.messaging import envelope
from genie.messaging.publisher import Letter
from workers.engine.protocol import (
    EngineRequest,
    EngineStats,
    Finish,
    LoadedEngine,
    Piece,
    Sink,
)
from workers.serving.attempt import BrokerDelivery, WorkerIdentity
from workers.serving.reports import START_S, EventReporter
from workers.serving.serving import Serving

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = "echo:small"
BOUND_S = 60.0


@dataclass
class Box:
    """A recording publisher: confirms at once unless told to hold."""

    letters: list[Letter] = field(default_factory=list)
    held: list[Letter] = field(default_factory=list)
    holds: bool = False
    queues = tuple(topology.model_queue("genie", MODEL, one) for one in WorkClass)

    def send(self, letter: Letter) -> None:
        self.letters.append(letter)
        if letter.on_sent is None:
            return
        if self.holds:
            self.held.append(letter)
        else:
            letter.on_sent()

    def gathered(self) -> AbstractContextManager[None]:
        """Nothing is written here, so nothing is gathered."""
        return nullcontext()

    @property
    def events(self) -> list[Event]:
        said = (one for one in self.letters if one.key not in self.queues)
        return [one for it in said for one in codec.decode_events(it.body)]

    @property
    def again(self) -> list[InferenceTask]:
        """Tasks that went back into their queue as new messages."""
        sent = (one for one in self.letters if one.key in self.queues)
        return [envelope.unpack(letter.body) for letter in sent]

    @property
    def outcomes(self) -> list[Outcome]:
        return [event for event in self.events if isinstance(event, Outcome)]


class Puppet:
    """An engine whose every event the test says; ``error`` meets all it takes not."""

    def __init__(self, error: Exception | None = None, *, takes: int = 0) -> None:
        self.error, self.takes = error, takes
        self.requests: list[EngineRequest] = []
        self.cancelled: list[str] = []
        self.sink: Sink = lambda _event: None

    def submit(self, request: EngineRequest, sink: Sink) -> None:
        if self.error is not None and len(self.requests) >= self.takes:
            raise self.error
        self.requests.append(request)
        self.sink = sink

    def say(
        self,
        text: str,
        tokens: int = 1,
        *,
        number: int = -1,
        odds: tuple[SampledToken, ...] = (),
    ) -> None:
        name = self.requests[number].id
        self.sink(Piece(id=name, text=text, tokens=tokens, choices=odds))

    def finish(
        self,
        reason: FinishReason = FinishReason.STOP,
        fault: Fault | None = None,
        *,
        number: int = -1,
        cached: int = 0,
        extras: AnswerExtras | None = None,
    ) -> None:
        usage = Usage(prompt_tokens=9, completion_tokens=11, cached_tokens=cached)
        self.sink(
            Finish(
                id=self.requests[number].id,
                reason=reason,
                usage=usage,
                fault=fault,
                extras=extras,
                first_token_s=1.0,
                total_s=2.0,
            )
        )

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)

    def stats(self) -> EngineStats:
        return EngineStats(slots=4)

    def close(self) -> None:
        """Nothing to close."""


class Stage:
    """A serving with everything around it recorded."""

    def __init__(self, engine: Puppet | EchoEngine | None = None) -> None:
        self.engine = Puppet() if engine is None else engine
        self.events, self.replies = Box(), Box()
        self.ready = {
            MODEL: LoadedEngine(engine=self.engine, fingerprint="gf1-a", peak_bytes=0)
        }
        self.settled: list[str] = []
        self.slots: list[str] = []
        self.served: list[str] = []
        self.clock = 0.0
        self.serving = Serving(
            WorkerIdentity(worker_id="w1", name="ann"),
            EventReporter(self),
            ready=lambda: self.ready,
            on_slot=lambda _task: self.slots.append("free"),
            on_served=self.served.append,
            now=lambda: NOW,
            clock=lambda: self.clock,
        )

    def send(self, letter: Letter) -> None:
        """Its mail, sorted by who gets it."""
        is_reply = letter.key.startswith(("reply.", "replies."))
        (self.replies if is_reply else self.events).send(letter)

    def gathered(self) -> AbstractContextManager[None]:
        """Nothing is written here, so nothing is gathered."""
        return nullcontext()

    @property
    def puppet(self) -> Puppet:
        assert isinstance(self.engine, Puppet)
        return self.engine

    @property
    def outcome(self) -> Outcome:
        (outcome,) = self.events.outcomes
        return outcome

    def take(self, body: bytes | None = None, **changes: Any) -> None:
        self.serving.take(self.delivery(body or envelope.pack(task(**changes))))

    def wait(self, seconds: float = START_S) -> None:
        """Time passes, and the data plane looks after its requests."""
        self.clock += seconds
        self.serving.tend()

    def delivery(
        self, body: bytes, name: str = "", *, redelivered: bool = False
    ) -> BrokerDelivery:
        def settle(how: str) -> Callable[[], None]:
            return lambda: self.settled.append(how + name)

        return BrokerDelivery(
            body=body,
            model=MODEL,
            redelivered=redelivered,
            ack=settle("ack"),
            requeue=settle("requeue"),
            reject=settle("reject"),
        )


def task(**changes: Any) -> InferenceTask:
    return InferenceTask(
        **{
            "job_id": "job1",
            "org": "acme",
            "queue": "genie",
            "model": MODEL,
            "work_class": WorkClass.INTERACTIVE,
            "created_at": NOW - timedelta(seconds=2),
            "deadline_at": NOW + timedelta(seconds=30),
            "sampling": Sampling(),
            "messages": (Message(role="user", content="hi there"),),
            "reply_to": "reply.web1",
            **changes,
        }
    )
