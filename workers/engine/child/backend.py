"""A loaded model that advances its requests step by step; engines subclass `Backend`.

It gathers tokens into pieces worth a message, holds stop strings back, and ends every
request with one `Finish`. The loop below takes commands in and hands its events out.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from genie.contracts.inference import (
    AnswerExtras,
    Fault,
    FinishReason,
    SampledToken,
    Usage,
)
from workers.engine.child.scheduler import (
    YIELDING,
    ForwardPass,
    Scheduler,
    Sequence,
    WaitingQueueFull,
)
from workers.engine.errors import RequestRefused, refused
from workers.engine.protocol import (
    EngineEvent,
    EngineRequest,
    EngineStats,
    Finish,
    Load,
    Piece,
    failed,
)
from workers.engine.wire import Cancel, Command, Stop, Submit

EVERY_S = 0.03
EVERY_TOKENS = 4
"""A piece is sent when it has so many tokens, or the last one was so long ago."""


class StopFilter:
    """Lets text through until a stop string appears; the stop itself never leaves.

    >>> stops = StopFilter(("END",))
    >>> stops.feed("one E"), stops.feed("ND two"), stops.hit
    ('one ', '', True)
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """Text that can be shown now; the start of a possible stop is held back."""
        if not self._stops:
            return text
        if self.hit:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        self.hit = bool(found)
        cut = min(found, default=len(self._held) - self._possible_start())
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What was held back, when the answer ended without the stop."""
        return "" if self.hit else self._held

    def _possible_start(self) -> int:
        return max((_overlap(self._held, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that ``stop`` begins with."""
    longest = min(len(text), len(stop) - 1)
    lengths = range(longest, 0, -1)
    return next((n for n in lengths if text.endswith(stop[:n])), 0)


class PieceWriter:
    """Turns tokens of one request into pieces, and its end into one `Finish`.

    Times are seconds on the engine's clock; ``started`` is the submission.
    ``reused`` prompt tokens were in the cache already; ``resumed`` tokens of the answer
    were given before.
    """

    def __init__(
        self, request: EngineRequest, *, prompt: int, started: float, resumed: int = 0
    ) -> None:
        self.request = request
        self.tokens = resumed
        self.reused = 0
        self._prompt = prompt
        self._started = started
        self._first: float | None = None
        self._sent_at: float | None = None
        self._stops = StopFilter(request.sampling.stop)
        self._text = ""
        """Text that may be shown and is not sent yet."""

        self._text_tokens = self._held_tokens = 0
        """How many tokens that text took, and how many have shown none so far."""

        self._choices: list[tuple[int, SampledToken]] = []
        """Tokens not sent yet, each with the place in the answer where it begins."""

        self._said = self._shown = 0

    @property
    def is_stopped(self) -> bool:
        """True when a stop string has appeared."""
        return self._stops.hit

    def add(
        self, text: str, now: float, choice: SampledToken | None = None
    ) -> Piece | None:
        """Count one token; the piece to send, if one is due."""
        self.tokens += 1
        self._held_tokens += 1
        if choice is not None:
            self._choices.append((self._said, choice))
        self._said += len(text)
        if self._first is None:
            self._first = now
        if self.tokens > self.request.sampling.min_tokens:
            text = self._stops.feed(text)
        if not text:
            return None
        self._show(text)
        return self._piece(now) if self._is_due(now) else None

    def end(
        self,
        reason: FinishReason,
        now: float,
        fault: Fault | None = None,
        extras: AnswerExtras | None = None,
    ) -> list[Piece | Finish]:
        """The last events: the text not sent yet, then the finish.

        Text held back for a stop string is part of an answer without a fault.
        """
        if fault is None and not self.is_stopped:
            text = self._stops.flush()
            # Tokens whose bytes never became text are owed to whoever asked for them.
            is_owed = any(place >= self._shown for place, _ in self._choices)
            if text or is_owed:
                self._show(text)
                self._shown = self._said + 1
        first = now if self._first is None else self._first
        finish = Finish(
            id=self.request.id,
            reason=reason,
            usage=Usage(
                prompt_tokens=self._prompt,
                completion_tokens=self.tokens,
                cached_tokens=self.reused,
            ),
            fault=fault,
            first_token_s=max(0.0, first - self._started),
            total_s=max(0.0, now - self._started),
            extras=extras,
        )
        is_left = self._text or self._text_tokens
        return [self._piece(now), finish] if is_left else [finish]

    def _show(self, text: str) -> None:
        self._text += text
        self._shown += len(text)
        self._text_tokens += self._held_tokens
        self._held_tokens = 0

    def _is_due(self, now: float) -> bool:
        if self._sent_at is None or self._text_tokens >= EVERY_TOKENS:
            return True
        return now - self._sent_at >= EVERY_S

    def _piece(self, now: float) -> Piece:
        """All that may be shown; the tokens of a stop string never are."""
        piece = Piece(
            id=self.request.id,
            text=self._text,
            tokens=self._text_tokens,
            choices=tuple(one for place, one in self._choices if place < self._shown),
        )
        self._choices = [one for one in self._choices if one[0] >= self._shown]
        self._sent_at, self._text, self._text_tokens = now, "", 0
        return piece


EngineClock = Callable[[], float]
"""Seconds that only grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """How much one engine takes on: ``context`` in tokens a slot."""

    model: str
    slots: int
    context: int
    waiting: int
    budget: int

    @classmethod
    def of(cls, load: Load) -> "EngineLimits":
        """What the worker allowed this engine to take on."""
        return cls(
            model=load.spec.id,
            slots=load.slots,
            context=load.context,
            waiting=load.waiting,
            budget=load.budget,
        )


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A request ready to run: prompt tokens and the most it may produce.

    ``ids`` are the token ids, growing with the answer, where prompts that begin
    alike share what was computed.
    """

    tokens: int
    limit: int
    ids: list[int] = field(default_factory=list)
    resumed: int = 0
    """The last so many tokens are the beginning of the answer."""

    counted: int | None = None
    """What the usage says of the prompt, if not its ``tokens`` before the answer."""


class ThroughputMeter:
    """Tokens written a second, smoothed over the last steps."""

    WEIGHT = 0.2

    def __init__(self) -> None:
        self.rate = 0.0

    def note(self, tokens: int, seconds: float) -> None:
        """Count one step."""
        if tokens and seconds > 0:
            new = tokens / seconds
            self.rate += (new - self.rate) * (self.WEIGHT if self.rate else 1)


class Backend(ABC):
    """A loaded model that advances all its requests one step at a time.

    Used by one thread. Every submitted request ends with exactly one `Finish`.
    """

    yields = True
    """Whether requests of `YIELDING` can be computed anew from their tokens."""

    pace_s = 0.0
    """The least time a step takes: what a paced engine's speed is measured by."""

    def __init__(self, room: EngineLimits, clock: EngineClock) -> None:
        self.room = room
        self.clock = clock
        self.scheduler = Scheduler(
            slots=room.slots, budget=room.budget, waiting=room.waiting
        )
        self.meter = ThroughputMeter()
        self._answers: dict[str, PieceWriter] = {}
        self._events: list[EngineEvent] = []

    @abstractmethod
    def prepare(self, request: EngineRequest) -> PreparedPrompt:
        """Read the prompt; raises RequestRefused when this model cannot run it."""

    @abstractmethod
    def advance(self, step: ForwardPass) -> None:
        """Compute one step and `produce` or `finish` its sequences."""

    @abstractmethod
    def forget(self, request_id: str) -> None:
        """Drop what the backend kept of a request that has ended."""

    def is_due(self) -> bool:
        """False while the next step is not to be computed yet (a paced engine)."""
        return True

    def peak_bytes(self) -> int:
        """The most memory this engine has taken so far."""
        return 0

    def wait_s(self) -> float | None:
        """Seconds until `step` has work; None when only a command brings some."""
        return 0.0 if self.is_busy else None

    @property
    def is_busy(self) -> bool:
        """True while any request is in flight or an event waits to be taken."""
        return bool(self._answers or self._events)

    def submit(self, request: EngineRequest) -> None:
        """Take a request in, or finish it at once with the reason it cannot run."""
        started = self.clock()
        if request.id in self._answers:
            return
        try:
            prompt = self.prepare(request)
            self._check(prompt, request)
            self._queue(request, prompt, started)
        except RequestRefused as refusal:
            self.forget(request.id)
            self._events.append(failed(request.id, refusal.fault))

    def cancel(self, request_id: str) -> None:
        """End a request now; unknown ids have ended already."""
        sequence = self.scheduler.get(request_id)
        if sequence is not None:
            self.finish(sequence, FinishReason.CANCELLED)

    def step(self) -> list[EngineEvent]:
        """Advance everything once and hand over what happened since the last step."""
        for sequence in self.scheduler.overdue(self.clock()):
            self.finish(sequence, FinishReason.ERROR, fault=_overdue(sequence))
        if self.is_due():
            self._plan()
        events, self._events = self._events, []
        return events

    def produce(
        self,
        sequence: Sequence,
        text: str,
        *,
        choice: SampledToken | None = None,
        is_end: bool = False,
    ) -> None:
        """One more token of a sequence; ends it when it should end.

        ``is_end`` marks the model's own end token, which has no text.
        """
        answer = self._answers[sequence.id]
        sequence.produced += 1
        piece = answer.add(text, self.clock(), choice)
        if piece is not None:
            self._events.append(piece)
        if is_end or answer.is_stopped:
            self.finish(sequence, FinishReason.STOP)
        elif sequence.produced >= sequence.limit:
            self.finish(sequence, FinishReason.LENGTH)

    def finish(
        self,
        sequence: Sequence,
        reason: FinishReason,
        *,
        fault: Fault | None = None,
        extras: AnswerExtras | None = None,
    ) -> None:
        """End a request: its one terminal event, and its slot is free."""
        # What a fault has left in the cache is nothing to build on.
        self.scheduler.remove(sequence, keep=fault is None)
        answer = self._answers.pop(sequence.id)
        answer.reused = sequence.reused
        self._events += answer.end(reason, self.clock(), fault, extras)
        self.forget(sequence.id)

    def stats(self) -> EngineStats:
        """The engine now."""
        return EngineStats(
            slots=self.room.slots,
            active=self.scheduler.active,
            waiting=self.scheduler.waiting,
            tokens_per_s=self.meter.rate,
            peak_bytes=self.peak_bytes(),
        )

    def _check(self, prompt: PreparedPrompt, request: EngineRequest) -> None:
        param = "prompt" if request.prompt is not None else "messages"
        if prompt.tokens == 0:
            raise refused("invalid_request", f"{param} has no tokens", param)
        asked = prompt.tokens - prompt.resumed
        if asked >= self.room.context:
            raise refused(
                "context_length_exceeded",
                f"the prompt has {asked} tokens; {self.room.model} holds "
                f"{self.room.context} here, answer included; shorten the prompt",
                param,
            )

    def _queue(
        self, request: EngineRequest, prompt: PreparedPrompt, started: float
    ) -> None:
        sequence = Sequence(
            id=request.id,
            work_class=request.work_class,
            prompt=prompt.tokens,
            limit=max(0, min(prompt.limit, self.room.context - prompt.tokens)),
            deadline=started + request.deadline_s,
            scope=request.scope,
            tokens=prompt.ids,
            can_yield=self.yields and request.work_class in YIELDING,
        )
        try:
            self.scheduler.add(sequence)
        except WaitingQueueFull:
            message = f"{self.room.waiting} requests already wait here; try again later"
            fault = Fault(code="engine_busy", message=message, retryable=True)
            raise RequestRefused(fault) from None
        asked = prompt.tokens - prompt.resumed
        answer = PieceWriter(
            request,
            prompt=asked if prompt.counted is None else prompt.counted,
            started=started,
            resumed=prompt.resumed,
        )
        self._answers[request.id] = answer
        if sequence.limit == 0:
            self.finish(sequence, FinishReason.LENGTH)

    def _plan(self) -> None:
        step = self.scheduler.plan()
        if step.is_empty:
            return
        written = len(step.answering)
        started = self.clock()
        self.advance(step)
        seconds = max(self.clock() - started, self.pace_s)
        self.meter.note(written, seconds)


def _overdue(sequence: Sequence) -> Fault:
    state = "waiting for a slot" if sequence.slot < 0 else "running"
    message = (
        f"the deadline passed while {state}, after {sequence.produced} tokens; "
        "allow more time or ask for fewer tokens"
    )
    return Fault(code="deadline_exceeded", message=message)


STATS_S = 0.5
"""Statistics leave at least this often, busy or idle: they prove the loop lives."""

TakeCommands = Callable[[float], Iterable[Command]]
"""All commands so far; waits up to so many seconds for the first."""

EmitEvents = Callable[[list[EngineEvent | EngineStats]], None]


class EngineLoop:
    """Steps a backend until it is told to stop, in a child or in a thread."""

    def __init__(self, backend: Backend, take: TakeCommands, emit: EmitEvents) -> None:
        self._backend = backend
        self._take = take
        self._emit = emit
        self._stopping = False
        self._reported_at = 0.0

    def run(self) -> None:
        """Serve until a `Stop` arrives."""
        while not self._stopping:
            for command in self._take(self._pause()):
                self._obey(command)
            self._turn()

    def _pause(self) -> float:
        wait = self._backend.wait_s()
        return STATS_S if wait is None else min(wait, STATS_S)

    def _obey(self, command: Command) -> None:
        if isinstance(command, Submit):
            self._backend.submit(command.request)
        elif isinstance(command, Cancel):
            self._backend.cancel(command.id)
        elif isinstance(command, Stop):
            self._stopping = True

    def _turn(self) -> None:
        batch: list[EngineEvent | EngineStats] = []
        if self._backend.is_busy:
            batch += self._backend.step()
        now = time.monotonic()
        if now - self._reported_at >= STATS_S:
            self._reported_at = now
            batch.append(self._backend.stats())
        if batch:
            self._emit(batch)
