"""The answers of one attempt while the engine writes them (pure)."""

import itertools
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from msgspec.structs import replace

from genie import topology
from genie.contracts.inference import (
    AnswerExtras,
    AttemptGivenBack,
    AttemptStarted,
    Chunk,
    Fault,
    FinishReason,
    InferenceTask,
    JobState,
    Outcome,
    PartialAnswer,
    SampledToken,
    Sampling,
    Timing,
    Usage,
)
from genie.errors import CodecError
from genie.messaging import envelope
from workers.engine.child.scheduler import YIELDING
from workers.engine.protocol import Engine, EngineRequest, Finish, Piece


@dataclass(slots=True, kw_only=True)
class AnswerBuilder:
    """One answer; ``before`` is what earlier attempts have written of it.

    ``is_open`` says that this attempt asks an engine for it.
    """

    before: PartialAnswer
    is_open: bool = True
    finish: Finish | None = None
    is_told: bool = False
    _texts: list[str] = field(default_factory=list)
    _tokens: int = 0
    _choices: list[SampledToken] = field(default_factory=list)

    def sampling(self, asked: Sampling, index: int) -> Sampling:
        """How to write it: each answer of a request has a random stream of its own."""
        own = asked
        if asked.seed is not None and index:
            own = replace(asked, seed=asked.seed + index)
        if self.before.finish_reason is None:
            return own
        # It ended before: the engine is asked for its end alone.
        return replace(own, max_tokens=0, min_tokens=0)

    def add(self, piece: Piece) -> None:
        """Keep some more of it."""
        self._texts.append(piece.text)
        self._tokens += piece.tokens
        self._choices += piece.choices

    def untold_end(self) -> FinishReason | None:
        """Why it ended, to be told once."""
        if self.is_told or self.reason is None:
            return None
        self.is_told = True
        return self.reason

    @property
    def written(self) -> PartialAnswer:
        """All of it so far."""
        return PartialAnswer(
            text=self.before.text + "".join(self._texts),
            tokens=self.before.tokens + self._tokens,
            choices=(*self.before.choices, *self._choices),
            finish_reason=self.reason,
        )

    @property
    def reason(self) -> FinishReason | None:
        """Why it ended by itself, None while it has not."""
        ended, finish = self.before.finish_reason, self.finish
        if ended or finish is None or finish.fault is not None:
            return ended
        return None if finish.reason is FinishReason.CANCELLED else finish.reason


def begin_answers(n: int, before: Sequence[PartialAnswer]) -> list[AnswerBuilder]:
    """The answers to write; those that ended before stay as they are.

    Had all of them, the last is asked for once more: somebody has to say the end.
    """
    all_of_them = [*before, *([PartialAnswer()] * n)][: max(1, n)]
    made = [_begun(one) for one in all_of_them]
    if not any(one.is_open for one in made):
        made[-1].is_open = True
    return made


def _begun(before: PartialAnswer) -> AnswerBuilder:
    has_ended = before.finish_reason is not None
    return AnswerBuilder(before=before, is_open=not has_ended, is_told=has_ended)


def combined_finish(writings: Sequence[AnswerBuilder]) -> Finish:
    """The ends of all answers as one: tokens summed, the prompt counted once."""
    ends = [one.finish for one in writings if one.finish is not None]
    earlier = [one.before.tokens for one in writings if one.finish is None]
    written = sum(end.usage.completion_tokens for end in ends) + sum(earlier)
    first = ends[0]
    usage = Usage(
        prompt_tokens=max(end.usage.prompt_tokens for end in ends),
        completion_tokens=written,
        # One of them has read the prompt, the others had it from that one.
        cached_tokens=min(end.usage.cached_tokens for end in ends),
    )
    return replace(
        first,
        reason=writings[0].reason or first.reason,
        usage=usage,
        first_token_s=min(end.first_token_s for end in ends),
        total_s=max(end.total_s for end in ends),
    )


def answer_extras(
    found: AnswerExtras | None, writings: Iterable[PartialAnswer]
) -> AnswerExtras | None:
    """What an outcome holds besides the first answer's text, None for nothing."""
    first, *others = writings
    whole = replace(
        found or AnswerExtras(), choices=first.choices, others=tuple(others)
    )
    return None if whole == AnswerExtras() else whole


def length(answers: Iterable[PartialAnswer]) -> int:
    """Characters of all answers together."""
    return sum(len(one.text) for one in answers)


_RUN = uuid.uuid4().hex[:20]
"""This run of this worker: 80 bits of chance once are cheaper than 128 a request."""

_numbers = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerDelivery:
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
class WorkerIdentity:
    """Who answers: the worker's id and name."""

    worker_id: str
    name: str


@dataclass(slots=True, kw_only=True)
class Attempt:
    """A running request: what was said so far and what is owed. Guarded by ``lock``.

    ``taken_at`` is monotonic seconds, ``queue_s`` how long the job waited for us.
    """

    me: WorkerIdentity
    task: InferenceTask
    delivery: BrokerDelivery
    fingerprint: str | None
    taken_at: float
    queue_s: float
    id: str = field(default_factory=lambda: f"{_RUN}{next(_numbers):012x}")
    lock: threading.RLock = field(default_factory=threading.RLock)
    engine: Engine | None = None
    is_over: bool = False
    has_started: bool = False
    resume: tuple[PartialAnswer, ...] = ()
    """What earlier attempts gave the asker; this one goes on after it."""
    _seq: int = 0
    _writings: list[AnswerBuilder] = field(init=False)

    def __post_init__(self) -> None:
        self._writings = begin_answers(self.task.n, self.resume)

    def requests(self, deadline_s: float) -> tuple[EngineRequest, ...]:
        """One for each answer to write; ``deadline_s`` from now."""
        return tuple(
            self._request(index, deadline_s)
            for index, writing in enumerate(self._writings)
            if writing.is_open
        )

    def _request(self, index: int, deadline_s: float) -> EngineRequest:
        task, writing = self.task, self._writings[index]
        return EngineRequest(
            id=self._engine_id(index),
            scope=task.org,
            work_class=task.work_class,
            sampling=writing.sampling(task.sampling, index),
            deadline_s=deadline_s,
            messages=task.messages,
            prompt=task.prompt,
            inputs=task.inputs,
            resume=writing.before.text,
            json_schema=task.json_schema,
            tools=task.tools,
            force_tool=task.force_tool,
            one_call=task.one_call,
        )

    def _engine_id(self, index: int) -> str:
        return self.id if index == 0 else f"{self.id}.{index}"

    def _index(self, engine_id: str) -> int:
        return int(engine_id[len(self.id) + 1 :] or 0)

    @property
    def engine_ids(self) -> tuple[str, ...]:
        """The engine's ids of all its answers."""
        return tuple(self._engine_id(index) for index in range(len(self._writings)))

    @property
    def in_engine(self) -> tuple[str, ...]:
        """The engine's ids of the answers that have not ended."""
        return tuple(
            self._engine_id(index)
            for index, writing in enumerate(self._writings)
            if writing.is_open and writing.finish is None
        )

    def resumed(self, answers: tuple[PartialAnswer, ...]) -> "Attempt":
        """Another attempt at the same message that goes on after ``answers``."""
        return Attempt(
            me=self.me,
            task=self.task,
            delivery=self.delivery,
            fingerprint=self.fingerprint,
            taken_at=self.taken_at,
            queue_s=self.queue_s,
            resume=answers,
        )

    @property
    def yields(self) -> bool:
        """True if the engine lets it wait for more urgent work in the middle."""
        return self.task.work_class in YIELDING and not self.task.inputs

    @property
    def written(self) -> tuple[PartialAnswer, ...]:
        """The answers so far, with what earlier attempts have written of them."""
        return tuple(writing.written for writing in self._writings)

    def so_far(self, name: str) -> tuple[Chunk, ...]:
        """All that is written, for somebody who came later and calls the job so."""
        return tuple(
            Chunk(
                job_id=name,
                attempt_id=self.id,
                seq=index,
                text=one.text,
                tokens=one.tokens,
                index=index,
            )
            for index, one in enumerate(self.written)
        )

    @property
    def is_first(self) -> bool:
        """True when nothing is known of an earlier attempt at this job."""
        return not (self.delivery.redelivered or self.resume or self.task.crashes)

    def ack(self) -> None:
        """Settle the message, by then perhaps a redelivery of the first one."""
        self.delivery.ack()

    def started(self, at: datetime) -> AttemptStarted:
        """It runs."""
        return AttemptStarted(
            job_id=self.task.job_id,
            attempt_id=self.id,
            worker_id=self.me.worker_id,
            worker=self.me.name,
            model=self.task.model,
            at=at,
            fingerprint=self.fingerprint,
            redelivered=self.delivery.redelivered,
            resumed=tuple(len(one.text) for one in self.resume),
        )

    def given_back(self, at: datetime) -> AttemptGivenBack:
        """It goes back, and not because it crashed anything."""
        return AttemptGivenBack(
            job_id=self.task.job_id,
            attempt_id=self.id,
            worker_id=self.me.worker_id,
            worker=self.me.name,
            at=at,
            fingerprint=self.fingerprint,
        )

    def cancel(self) -> None:
        """End what its engine still writes of it."""
        if self.engine is not None:
            for engine_id in self.in_engine:
                self.engine.cancel(engine_id)

    def add(self, piece: Piece) -> Chunk | None:
        """Keep a piece; the chunk to send, if somebody reads it."""
        index = self._index(piece.id)
        self._writings[index].add(piece)
        if self.task.reply_to is None or not self.task.chunks:
            return None
        return self._chunk(index, piece)

    def end(self, finish: Finish) -> Finish | None:
        """The end of one answer; the end of all of them, once it has come.

        A fault or a cancel of one is the end of all.
        """
        self._writings[self._index(finish.id)].finish = finish
        if finish.fault is not None or finish.reason is FinishReason.CANCELLED:
            return finish
        return None if self.in_engine else combined_finish(self._writings)

    def rest(self) -> list[Chunk]:
        """Of several answers, the ends not told yet."""
        if self.task.reply_to is None or len(self._writings) == 1:
            return []
        ends = ((at, one.untold_end()) for at, one in enumerate(self._writings))
        return [self._chunk(at, finish_reason=end) for at, end in ends if end]

    def outcome(self, finish: Finish, at: datetime, now: float) -> Outcome:
        """How the engine ended it, as the cloud wants to hear it."""
        timing = Timing(
            queue_s=self.queue_s,
            first_token_s=finish.first_token_s,
            total_s=max(0.0, now - self.taken_at),
        )
        written = self.written
        return replace(
            self._outcome(state_of(finish), at, finish.reason, finish.fault),
            text=written[0].text,
            usage=finish.usage,
            timing=timing,
            extras=answer_extras(finish.extras, written),
        )

    def refusal(self, state: JobState, at: datetime, fault: Fault) -> Outcome:
        """It ends without an answer: too late, cancelled, or our own mistake."""
        is_cancel = state is JobState.CANCELLED
        reason = FinishReason.CANCELLED if is_cancel else FinishReason.ERROR
        return self._outcome(state, at, reason, fault)

    def _outcome(
        self, state: JobState, at: datetime, reason: FinishReason, fault: Fault | None
    ) -> Outcome:
        return Outcome(
            job_id=self.task.job_id,
            attempt_id=self.id,
            worker_id=self.me.worker_id,
            worker=self.me.name,
            model=self.task.model,
            state=state,
            at=at,
            finish_reason=reason,
            fingerprint=self.fingerprint,
            timing=Timing(queue_s=self.queue_s),
            fault=fault,
        )

    def _chunk(
        self,
        index: int,
        piece: Piece | None = None,
        finish_reason: FinishReason | None = None,
    ) -> Chunk:
        self._seq += 1
        return Chunk(
            job_id=self.task.job_id,
            attempt_id=self.id,
            seq=self._seq - 1,
            text=piece.text if piece else "",
            tokens=piece.tokens if piece else 0,
            index=index,
            choices=piece.choices if piece else (),
            finish_reason=finish_reason,
        )


def task_of(delivery: BrokerDelivery) -> InferenceTask:
    """What a delivery asks for; raises CodecError for what cannot be a task."""
    if len(delivery.body) > topology.MAX_MESSAGE_BYTES + 1024:
        raise CodecError("the message is over the size limit", param="body")
    task = envelope.unpack(delivery.body)
    if task.model != delivery.model:
        raise CodecError("the task is of another model than its queue", param="model")
    return task


def state_of(finish: Finish) -> JobState:
    """The job state an engine's last word amounts to."""
    if finish.reason is FinishReason.CANCELLED:
        return JobState.CANCELLED
    if finish.fault is None:
        return JobState.COMPLETED
    if finish.fault.code == "deadline_exceeded":
        return JobState.TIMEOUT
    return JobState.FAILED
