"""Streams one job's events to the waiting client; falls back to polling the database.

What several attempts of a job wrote is joined into one unbroken answer.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from msgspec import structs

from cloud_app import store
from cloud_app.brain import capacity
from cloud_app.bus import InboxItem, JobInbox, PublishUnconfirmed
from cloud_app.context import Context
from cloud_app.fleet import registry
from cloud_app.jobs import lifecycle
from cloud_app.store.records import JobRecord
from genie import logs
from genie.contracts.inference import (
    AnswerExtras,
    AttemptStarted,
    Chunk,
    Fault,
    FinishReason,
    JobState,
    Outcome,
    PartialAnswer,
    SampledToken,
)
from genie.errors import JobFailed, Unavailable

log = logs.logger("stream")


class BrokenAnswer(Exception):
    """A stream that cannot be continued truthfully."""


class _AnswerProgress:
    """One answer: what its reader has, and how far the present attempt has come.

    A piece costs what it holds, however long the answer is already.
    """

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._choices: list[SampledToken] = []
        self._finish_reason: FinishReason | None = None
        self._given = self._seen = (0, 0, 0)  # characters, tokens, choices

    @property
    def given(self) -> PartialAnswer:
        """What the reader has."""
        return PartialAnswer(
            text=self._text(),
            tokens=self._given[1],
            choices=tuple(self._choices),
            finish_reason=self._finish_reason,
        )

    @property
    def has_text(self) -> bool:
        """True once the reader has some text."""
        return self._given[0] > 0

    def begin(self, resumed: int) -> None:
        """An attempt goes on after so many characters, or starts anew."""
        chars, tokens, choices = self._given
        resumed = min(resumed, chars)
        self._seen = (resumed, tokens, choices) if resumed else (0, 0, 0)

    def advance(self, chunk: Chunk) -> PartialAnswer:
        """What a chunk of the present attempt adds to what was given."""
        chars, tokens, choices = self._seen
        if chars < self._given[0]:  # it repeats what the reader has
            known = self._text()[chars : chars + len(chunk.text)]
            if not chunk.text.startswith(known):
                raise BrokenAnswer("the second attempt gave another answer")
        self._seen = (
            chars + len(chunk.text),
            tokens + chunk.tokens,
            choices + len(chunk.choices),
        )
        more = self._seen[2] - self._given[2]
        return self._give(
            text=chunk.text[max(0, self._given[0] - chars) :],
            tokens=self._seen[1] - self._given[1],
            choices=chunk.choices[-more:] if more > 0 else (),
            finish_reason=chunk.finish_reason,
        )

    def rest(self, whole: PartialAnswer) -> PartialAnswer:
        """What the finished answer holds beyond what was given."""
        chars, tokens, choices = self._given
        if not whole.text.startswith(self._text()):
            raise BrokenAnswer("the second attempt gave another answer")
        return self._give(
            text=whole.text[chars:],
            tokens=whole.tokens - tokens,
            choices=whole.choices[choices:],
            finish_reason=None,
        )

    def _text(self) -> str:
        self._texts = ["".join(self._texts)]
        return self._texts[0]

    def _give(
        self,
        *,
        text: str,
        tokens: int,
        choices: tuple[SampledToken, ...],
        finish_reason: FinishReason | None,
    ) -> PartialAnswer:
        new = PartialAnswer(
            text=text,
            tokens=max(0, tokens),
            choices=choices,
            finish_reason=None if self._finish_reason else finish_reason,
        )
        if text:
            self._texts.append(text)
        self._choices += choices
        self._finish_reason = self._finish_reason or finish_reason
        chars, had, told = self._given
        self._given = (chars + len(text), had + new.tokens, told + len(choices))
        return new


class AnswerResumer:
    """All answers of one job, told apart by their index.

    The next attempt starts over; what it repeats of the text already given is held
    back. With greedy decoding it repeats it exactly; if not, the answer cannot be
    continued and `BrokenAnswer` says so.
    """

    def __init__(self) -> None:
        self._strands: list[_AnswerProgress] = []
        self._attempt: str | None = None
        self._ended: set[str] = set()
        self._seq = 0

    @property
    def attempt(self) -> str | None:
        """The attempt whose text is being given."""
        return self._attempt

    @property
    def given(self) -> tuple[PartialAnswer, ...]:
        """What the reader has of each answer."""
        return tuple(strand.given for strand in self._strands)

    @property
    def has_given(self) -> bool:
        """True once the reader has some text."""
        return any(strand.has_text for strand in self._strands)

    def knows(self, attempt_id: str) -> bool:
        """True when an attempt has begun, whether it was replaced since or not."""
        return attempt_id in (self._attempt, *self._ended)

    def begin(self, attempt_id: str, resumed: Sequence[int] = ()) -> None:
        """A worker began, so many characters on; earlier attempts are ignored."""
        if self.knows(attempt_id):
            return
        if self._attempt is not None:
            self._ended.add(self._attempt)
        self._attempt, self._seq = attempt_id, 0
        for index, strand in enumerate(self._strands):
            strand.begin(resumed[index] if index < len(resumed) else 0)

    def take(self, chunk: Chunk) -> PartialAnswer:
        """The part of a chunk that is new to the reader; none of one sent twice."""
        self.begin(chunk.attempt_id)
        if chunk.attempt_id != self._attempt or chunk.seq < self._seq:
            return PartialAnswer()
        if chunk.seq != self._seq:
            raise BrokenAnswer(f"chunk {self._seq} of the answer was lost")
        self._seq += 1
        return self._strand(chunk.index).advance(chunk)

    def rest(self, whole: PartialAnswer, index: int = 0) -> PartialAnswer:
        """What a finished answer holds beyond what was given."""
        return self._strand(index).rest(whole)

    def _strand(self, index: int) -> _AnswerProgress:
        while len(self._strands) <= index:
            self._strands.append(_AnswerProgress())
        return self._strands[index]


TOO_SLOW = Fault(
    code="client_too_slow",
    message="the answer was read more slowly than it came, and too much of it waited; "
    'ask again and read on, or send mode "async"',
)

WAIT_S = 1.0
"""How long one look into the inbox takes; a waiting stream says so this often."""

ROW_EVERY_S = 2.0
"""Without events, how often the job's row is asked whether it is over."""

RESUME_S = 10.0
"""How long a worker is waited for to go on after the text that was given."""

RESUMES = 5
"""How often one answer is continued; what loses its way more often is given up."""

GRACE_S = 10.0
"""How long past the deadline the worker's own word on it is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueWait:
    """Nothing new to read. ``position`` counts from 1; both None while unknown.

    ``is_started``: a worker has it and reads the prompt, or writes slowly.
    """

    position: int | None = None
    eta_s: float | None = None
    is_started: bool = False


IS_STARTED = QueueWait(is_started=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerText:
    """Some more of an answer; ``finish_reason`` ends one of several."""

    text: str
    tokens: int
    worker: str | None
    index: int = 0
    choices: tuple[SampledToken, ...] = ()
    finish_reason: FinishReason | None = None


class JobStream:
    """One job as a sequence of waiting, text and its outcome.

    ``repeats``: another attempt says the same again, so what was given is held back.
    Otherwise, and where the second attempt differs after all, its worker is asked to go
    on after the text that was given. ``gave_up`` says why we ended it ourselves.
    """

    def __init__(
        self,
        ctx: Context,
        job: JobRecord,
        inbox: JobInbox | None,
        *,
        repeats: bool = True,
        publish: Callable[[], None] = lambda: None,
    ) -> None:
        self._ctx, self._job, self._inbox = ctx, job, inbox
        self._repeats, self._publish = repeats, publish
        self._splice = AnswerResumer()
        self._began: AttemptStarted | None = None
        self._resuming_at: float | None = None
        self._resumes = 0
        self._row_at = time.monotonic() - WAIT_S  # so the first silence asks at once
        self._waiting = QueueWait()
        self.gave_up: Fault | None = None

    def items(self) -> Iterator[QueueWait | AnswerText | Outcome]:
        """Everything the asker is told; the last item is the outcome."""
        while True:
            for item in self._told_by(self._next()):
                yield item
                if isinstance(item, Outcome):
                    return

    def _told_by(
        self, event: InboxItem | None
    ) -> Iterator[QueueWait | AnswerText | Outcome]:
        if isinstance(event, AttemptStarted):
            self._start(event)
        elif isinstance(event, Chunk):
            yield from self._chunk(event)
        elif isinstance(event, Outcome):
            yield from self._finish(event)
        elif isinstance(event, PublishUnconfirmed):
            self._doubt()
        elif (fault := self._why_give_up()) is not None:
            yield self._give_up(fault)
        else:
            yield self._waiting

    def _doubt(self) -> None:
        """Nobody knows whether the broker has it; twice is better than never."""
        if self._began is None and not self._splice.given:
            log.info("published_again", job_id=self._job.id)
            self._publish()

    def _next(self) -> InboxItem | None:
        event = self._inbox.get(WAIT_S) if self._inbox else None
        if event is not None:
            self._row_at = time.monotonic()
            return event
        if self._inbox is None:
            time.sleep(0.05)  # a replayed request: only the row knows
        if time.monotonic() - self._row_at < (ROW_EVERY_S if self._inbox else 0.2):
            return None
        self._row_at = time.monotonic()
        return self._from_row()

    def _from_row(self) -> Outcome | None:
        """The outcome by the record, should its event never have reached us."""
        try:
            place = lifecycle.place(self._ctx, self._job)
            if place.state.is_terminal:
                return outcome_of(lifecycle.get(self._ctx, self._job.org, self._job.id))
            if place.ahead is not None:
                self._waiting = self._queued(place.ahead)
        except Unavailable as error:
            log.warning("row_unavailable", job_id=self._job.id, error=str(error))
        return self._overdue(self._job)

    def _queued(self, ahead: int) -> QueueWait:
        job, ctx = self._job, self._ctx
        eta_s = capacity.eta_s(
            registry.view(ctx),
            queue=job.queue,
            model=job.model,
            ahead=ahead + 1,
            tokens=ctx.answer_lengths.mean(job.model),
        )
        return QueueWait(position=ahead + 1, eta_s=eta_s)

    def _overdue(self, job: JobRecord) -> Outcome | None:
        late_s = (self._ctx.now() - job.deadline_at).total_seconds()
        if late_s < GRACE_S:
            return None
        fault = Fault(
            code="deadline_exceeded",
            message="no worker finished this before its deadline; ask again, or add a "
            "machine with `genie worker join`",
        )
        return self._end(JobState.TIMEOUT, fault)

    def _start(self, event: AttemptStarted) -> None:
        if self._splice.knows(event.attempt_id):
            return  # sent twice, by a worker that lost its connection
        self._begin(event)
        self._splice.begin(event.attempt_id, event.resumed)
        if event.resumed or not self._splice.has_given:
            self._resuming_at = None
        elif not self._repeats:
            self._resume()

    def _begin(self, event: AttemptStarted | None = None) -> None:
        self._began = event or self._began
        self._waiting = IS_STARTED

    def _chunk(self, chunk: Chunk) -> Iterator[AnswerText | Outcome]:
        self._begin()
        if self._resuming_at is not None:  # the worker has not heard of it yet
            if (fault := self._why_give_up()) is not None:
                yield self._give_up(fault)
            return
        try:
            new = self._splice.take(chunk)
        except BrokenAnswer as error:
            if not self._resume():
                yield self._give_up(_broken(error))
            return
        yield from self._told(new, chunk.index)

    def _told(self, new: PartialAnswer, index: int) -> Iterator[AnswerText]:
        if new.text or new.choices or new.finish_reason:
            yield AnswerText(
                text=new.text,
                tokens=new.tokens,
                worker=self._worker,
                index=index,
                choices=new.choices,
                finish_reason=new.finish_reason,
            )

    def _resume(self) -> bool:
        """Ask the worker to go on after what was given; False when nobody can."""
        if self._resumes == RESUMES:
            return False
        self._resumes += 1
        self._repeats, self._resuming_at = False, time.monotonic()
        worker_id = self._runs_on()
        if worker_id is None:  # its start was lost too; the record knows it soon
            self._resuming_at -= RESUME_S - WAIT_S
            return True
        given = self._splice.given
        characters = sum(len(one.text) for one in given)
        log.info("resuming", job_id=self._job.id, worker=worker_id, given=characters)
        try:
            self._ctx.bus.resume(worker_id, self._job.id, given)
        except Unavailable as error:  # asked again when it has not gone on in time
            log.warning("resume_not_sent", job_id=self._job.id, error=str(error))
        return True

    def _runs_on(self) -> str | None:
        """The worker that has it: as it said itself, or by the record."""
        if self._began is not None:
            return self._began.worker_id
        job = _read(self._ctx, self._job)
        return job.worker_id if job else None

    def _why_give_up(self) -> Fault | None:
        if self._inbox is not None and self._inbox.is_cut:
            return TOO_SLOW
        at = self._resuming_at
        if at is None or time.monotonic() - at < RESUME_S or self._resume():
            return None
        return _broken(BrokenAnswer("the next one did not go on with it"))

    def _give_up(self, fault: Fault) -> Outcome:
        self.gave_up = fault
        return self._end(JobState.FAILED, fault)

    @property
    def _worker(self) -> str | None:
        return self._began.worker if self._began else None

    def _finish(self, outcome: Outcome) -> Iterator[AnswerText | Outcome]:
        if outcome.state is not JobState.COMPLETED:
            outcome = self._recorded() or outcome
        if outcome.state is not JobState.COMPLETED:
            yield outcome
            return
        try:
            rests = [
                self._splice.rest(whole, index)
                for index, whole in enumerate(outcome.answers)
            ]
        except BrokenAnswer as error:
            yield self._give_up(_broken(error))
            return
        lengths = self._ctx.answer_lengths
        lengths.note(self._job.model, outcome.usage.completion_tokens)
        for index, rest in enumerate(rests):
            yield from self._told(rest, index)
        yield outcome

    def _recorded(self) -> Outcome | None:
        """How the job ended by the record, if it has.

        An attempt may end without an answer because another one gave it: its word
        got lost on the way to us, and the cloud stopped the one we heard of.
        """
        job = _read(self._ctx, self._job)
        return outcome_of(job) if job and job.state.is_terminal else None

    def _end(self, state: JobState, fault: Fault) -> Outcome:
        first, *others = self._splice.given or (PartialAnswer(),)
        return Outcome(
            job_id=self._job.id,
            attempt_id=self._splice.attempt or "none",
            worker_id="",
            worker=self._worker or "",
            model=self._job.model,
            state=state,
            at=self._ctx.now(),
            text=first.text,
            finish_reason=FinishReason.ERROR,
            fault=fault,
            extras=AnswerExtras(choices=first.choices, others=tuple(others)),
        )


def _broken(error: BrokenAnswer) -> Fault:
    return Fault(
        code="stream_broken",
        message=f"the worker changed mid-answer and {error}; ask again",
        retryable=True,
    )


LISTEN_S = 0.4
"""How often a listener asks for what is new."""


class JobListener:
    """A job nobody waits for, read while it is written. Leaving it changes nothing.

    Its worker is asked again and again for all that is written: a worker keeps no list
    of listeners, and one that takes over is asked like the first.
    """

    def __init__(self, ctx: Context, job: JobRecord) -> None:
        self._ctx, self._job = ctx, job
        self._name = f"{job.id}.{store.ids.new_id()}"  # ours: others may listen too
        self._given: dict[int, str] = {}

    @property
    def answers(self) -> int:
        """How many answers the job has, or is to have."""
        if self._job.task is not None:
            return max(1, self._job.task.n)
        return len(self._job.outcome.answers)

    def items(self) -> Generator[QueueWait | AnswerText | Outcome, None, None]:
        """Everything the listener is told; the last item is the outcome."""
        inbox = self._ctx.replies.expect(self._name)
        try:
            while not self._job.state.is_terminal:
                yield self._waiting()
                self._ask()
                yield from self._heard(inbox)
                self._job = _read(self._ctx, self._job) or self._job
            yield from self._end()
        finally:
            self._ctx.replies.forget(self._name)

    def _waiting(self) -> QueueWait:
        if self._job.state is JobState.RUNNING:
            return IS_STARTED
        try:
            ahead = lifecycle.place(self._ctx, self._job).ahead
        except Unavailable:
            ahead = None
        return QueueWait(position=None if ahead is None else ahead + 1)

    def _ask(self) -> None:
        job, replies = self._job, self._ctx.replies
        if job.worker_id is None:
            return
        try:
            self._ctx.bus.say(job.worker_id, job.id, replies.name, self._name)
        except Unavailable as error:
            log.warning("listener_waits", job_id=job.id, error=str(error))

    def _heard(self, inbox: JobInbox) -> Iterator[AnswerText]:
        until = time.monotonic() + LISTEN_S
        while (left_s := until - time.monotonic()) > 0:
            event = inbox.get(left_s)
            if isinstance(event, Chunk):
                yield from self._told(event.text, event.index)

    def _told(self, text: str, index: int) -> Iterator[AnswerText]:
        """What is new of an answer; one that starts over is waited for."""
        given = self._given.get(index, "")
        if not text.startswith(given) and not given.startswith(text):
            raise JobFailed(
                "another worker took over and writes another answer; the job goes on: "
                "read its result when it has ended",
                code="stream_broken",
            )
        if len(text) > len(given):
            self._given[index] = text
            worker, new = self._job.worker, text[len(given) :]
            yield AnswerText(text=new, tokens=0, worker=worker, index=index)

    def _end(self) -> Iterator[AnswerText | Outcome]:
        job = self._job
        outcome = outcome_of(job)
        if job.state is JobState.COMPLETED:
            if job.outcome.text is None:
                raise JobFailed(
                    f"the answer of job {job.id} is no longer kept; submit it again",
                    code="result_expired",
                )
            for index, one in enumerate(outcome.answers):
                yield from self._told(one.text, index)
            lifecycle.mark_delivered(self._ctx, job)
        yield outcome


def _read(ctx: Context, job: JobRecord) -> JobRecord | None:
    """The job as it stands now; None while the database is away."""
    try:
        return lifecycle.get(ctx, job.org, job.id)
    except Unavailable as error:
        log.warning("row_unavailable", job_id=job.id, error=str(error))
        return None


def outcome_of(job: JobRecord) -> Outcome:
    """The outcome a terminal job's record tells of."""
    ended = structs.asdict(job.outcome)
    known = {name: value for name, value in ended.items() if value is not None}
    known["at"] = job.finished_at or job.created_at
    return Outcome(
        job_id=job.id,
        attempt_id="record",
        worker_id=job.worker_id or "",
        worker=job.worker or "",
        model=job.model,
        state=job.state,
        fingerprint=job.fingerprint,
        **known,
    )
