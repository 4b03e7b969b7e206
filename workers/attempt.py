"""One execution of one job on this worker, and the words that tell of it."""

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from genie.contracts.inference import (
    Chunk,
    Extras,
    Fault,
    FinishReason,
    GivenBack,
    InferenceTask,
    JobState,
    Outcome,
    Started,
    Timing,
    Usage,
)
from workers.coalesce import Coalescer
from workers.engine.protocol import EngineRequest, Finish, Piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message in hand; exactly one of the three calls settles it, from any thread.

    ``model`` is the model of the queue it came from.
    """

    body: bytes | str
    model: str
    redelivered: bool
    ack: Callable[[], None]
    requeue: Callable[[], None]
    reject: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Me:
    """Who answers: the worker's id and name."""

    worker_id: str
    name: str


@dataclass(slots=True, kw_only=True)
class Attempt:
    """A running request: what was said so far and what is owed. Guarded by ``lock``.

    ``taken_at`` is monotonic seconds, ``queue_s`` how long the job waited for us.
    """

    me: Me
    task: InferenceTask
    delivery: Delivery
    fingerprint: str | None
    taken_at: float
    queue_s: float
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    lock: threading.RLock = field(default_factory=threading.RLock)
    cancel: Callable[[], None] = lambda: None
    is_over: bool = False
    has_started: bool = False
    resume: str = ""
    """Text an earlier attempt gave its asker; this one goes on after it."""
    _seq: int = 0
    _texts: list[str] = field(default_factory=list)
    _chunks: Coalescer = field(default_factory=Coalescer)

    def request(self, deadline_s: float) -> EngineRequest:
        """The same as the engine wants it; ``deadline_s`` from now."""
        task = self.task
        return EngineRequest(
            id=self.id,
            scope=task.org,
            work_class=task.work_class,
            sampling=task.sampling,
            deadline_s=deadline_s,
            messages=task.messages,
            prompt=task.prompt,
            inputs=task.inputs,
            resume=self.resume,
            json_schema=task.json_schema,
            tools=task.tools,
            force_tool=task.force_tool,
        )

    def resumed(self, text: str) -> "Attempt":
        """Another attempt at the same message that goes on after ``text``."""
        return Attempt(
            me=self.me,
            task=self.task,
            delivery=self.delivery,
            fingerprint=self.fingerprint,
            taken_at=self.taken_at,
            queue_s=self.queue_s,
            resume=text,
        )

    @property
    def text(self) -> str:
        """The answer so far, with what earlier attempts have written of it."""
        return self.resume + "".join(self._texts)

    def ack(self) -> None:
        """Settle the message, by then perhaps a redelivery of the first one."""
        self.delivery.ack()

    def started(self, at: datetime) -> Started:
        """It runs."""
        return Started(
            job_id=self.task.job_id,
            attempt_id=self.id,
            worker_id=self.me.worker_id,
            worker=self.me.name,
            model=self.task.model,
            at=at,
            fingerprint=self.fingerprint,
            redelivered=self.delivery.redelivered,
            resumed=len(self.resume),
        )

    def given_back(self, at: datetime) -> GivenBack:
        """It goes back, and not because it crashed anything."""
        return GivenBack(
            job_id=self.task.job_id,
            attempt_id=self.id,
            worker_id=self.me.worker_id,
            worker=self.me.name,
            at=at,
            fingerprint=self.fingerprint,
        )

    def add(self, piece: Piece, now: float) -> Chunk | None:
        """Keep a piece; the chunk to send now, if one is due and somebody waits."""
        self._texts.append(piece.text)
        if self.task.reply_to is None:
            return None
        return self._chunk(self._chunks.feed(piece.text, piece.tokens, now))

    def rest(self, now: float) -> Chunk | None:
        """The last chunk, if any text is held back."""
        return self._chunk(self._chunks.flush(now))

    def outcome(self, finish: Finish, at: datetime, now: float) -> Outcome:
        """How the engine ended it, as the cloud wants to hear it."""
        timing = Timing(
            queue_s=self.queue_s,
            first_token_s=finish.first_token_s,
            total_s=max(0.0, now - self.taken_at),
        )
        return self._outcome(
            state_of(finish),
            at,
            text=self.text,
            finish_reason=finish.reason,
            usage=finish.usage,
            timing=timing,
            fault=finish.fault,
            extras=finish.extras,
        )

    def refusal(self, state: JobState, at: datetime, fault: Fault) -> Outcome:
        """It ends without an answer: too late, cancelled, or our own mistake."""
        reason = (
            FinishReason.CANCELLED
            if state is JobState.CANCELLED
            else FinishReason.ERROR
        )
        return self._outcome(
            state,
            at,
            finish_reason=reason,
            timing=Timing(queue_s=self.queue_s),
            fault=fault,
        )

    def _outcome(
        self,
        state: JobState,
        at: datetime,
        *,
        finish_reason: FinishReason,
        timing: Timing,
        fault: Fault | None,
        text: str = "",
        usage: Usage | None = None,
        extras: Extras | None = None,
    ) -> Outcome:
        return Outcome(
            job_id=self.task.job_id,
            attempt_id=self.id,
            worker_id=self.me.worker_id,
            worker=self.me.name,
            model=self.task.model,
            state=state,
            at=at,
            text=text,
            finish_reason=finish_reason,
            fingerprint=self.fingerprint,
            usage=usage or Usage(),
            timing=timing,
            fault=fault,
            extras=extras,
        )

    def _chunk(self, held: tuple[str, int] | None) -> Chunk | None:
        if held is None:
            return None
        text, tokens = held
        self._seq += 1
        return Chunk(
            job_id=self.task.job_id,
            attempt_id=self.id,
            seq=self._seq - 1,
            text=text,
            tokens=tokens,
        )


def state_of(finish: Finish) -> JobState:
    """The job state an engine's last word amounts to."""
    if finish.reason is FinishReason.CANCELLED:
        return JobState.CANCELLED
    if finish.fault is None:
        return JobState.COMPLETED
    if finish.fault.code == "deadline_exceeded":
        return JobState.TIMEOUT
    return JobState.FAILED
