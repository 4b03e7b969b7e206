"""What every engine does around its tokens: admit, cancel, expire, finish, measure."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from genie.contracts.inference import Choice, Fault, FinishReason, Usage
from workers.engine.answer import Answer
from workers.engine.errors import Refused, refused
from workers.engine.protocol import (
    EngineEvent,
    EngineRequest,
    EngineStats,
    Finish,
)
from workers.engine.scheduler import YIELDING, Full, Scheduler, Sequence, Step

Clock = Callable[[], float]
"""Seconds that only grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How much one engine takes on: ``context`` in tokens a slot."""

    model: str
    slots: int
    context: int
    waiting: int
    budget: int


def waiting_bound(slots: int) -> int:
    """How many requests may wait for ``slots`` slots, if nobody says otherwise."""
    return max(16, 4 * slots)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request ready to run: prompt tokens and the most it may produce.

    ``ids`` are the token ids, growing with the answer, where prompts that begin
    alike share what was computed.
    """

    tokens: int
    limit: int
    ids: list[int] = field(default_factory=list)
    resumed: int = 0
    """The last so many tokens are the beginning of the answer."""


class Meter:
    """Tokens a second, smoothed over the last steps."""

    WEIGHT = 0.2

    def __init__(self) -> None:
        self.decode_rate = 0.0
        self.prefill_rate = 0.0

    def note(self, *, decoded: int, prefilled: int, seconds: float) -> None:
        """Count one step. A step with both counts as prefill: that is its cost."""
        if seconds <= 0:
            return
        if prefilled:
            self.prefill_rate = self._blend(self.prefill_rate, prefilled / seconds)
        if decoded:
            self.decode_rate = self._blend(self.decode_rate, decoded / seconds)

    def _blend(self, old: float, new: float) -> float:
        return new if old == 0 else old + self.WEIGHT * (new - old)


class Backend(ABC):
    """A loaded model that advances all its requests one step at a time.

    Used by one thread. Every submitted request ends with exactly one `Finish`.
    """

    yields = True
    """Whether requests of `YIELDING` can be computed anew from their tokens."""

    pace_s = 0.0
    """The least time a step takes: what a paced engine's speed is measured by."""

    def __init__(self, room: Room, clock: Clock) -> None:
        self.room = room
        self.clock = clock
        self.scheduler = Scheduler(
            slots=room.slots, budget=room.budget, waiting=room.waiting
        )
        self.meter = Meter()
        self.reused_tokens = 0
        self._answers: dict[str, Answer] = {}
        self._events: list[EngineEvent] = []

    @abstractmethod
    def prepare(self, request: EngineRequest) -> Prompt:
        """Read the prompt; raises Refused when this model cannot run it."""

    @abstractmethod
    def advance(self, step: Step) -> None:
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
        except Refused as refusal:
            self.forget(request.id)
            self._events.append(_refusal(request, refusal.fault))

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
        choice: Choice | None = None,
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
        self, sequence: Sequence, reason: FinishReason, *, fault: Fault | None = None
    ) -> None:
        """End a request: its one terminal event, and its slot is free."""
        # What a fault has left in the cache is nothing to build on.
        self.scheduler.remove(sequence, keep=fault is None)
        answer = self._answers.pop(sequence.id)
        answer.reused = sequence.reused
        self.reused_tokens += sequence.reused
        self._events += answer.end(reason, self.clock(), fault)
        self.forget(sequence.id)

    def stats(self) -> EngineStats:
        """The engine now."""
        scheduler, room = self.scheduler, self.room
        rate = self.meter.prefill_rate
        return EngineStats(
            slots=room.slots,
            free_slots=room.slots - scheduler.active,
            active=scheduler.active,
            waiting=scheduler.waiting,
            context=room.context,
            kv_used=scheduler.cached / (room.slots * room.context),
            tokens_per_s=self.meter.decode_rate,
            prefill_queued_s=scheduler.queued / rate if rate else 0.0,
            peak_bytes=self.peak_bytes(),
            cached_tokens=self.reused_tokens,
        )

    def _check(self, prompt: Prompt, request: EngineRequest) -> None:
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

    def _queue(self, request: EngineRequest, prompt: Prompt, started: float) -> None:
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
        except Full:
            message = f"{self.room.waiting} requests already wait here; try again later"
            fault = Fault(code="engine_busy", message=message, retryable=True)
            raise Refused(fault) from None
        answer = Answer(
            request,
            prompt=prompt.tokens - prompt.resumed,
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
        prefilled = sum(chunk.length for chunk in step.chunks)
        produced = len(step.decodes) + sum(chunk.completes for chunk in step.chunks)
        started = self.clock()
        self.advance(step)
        seconds = max(self.clock() - started, self.pace_s)
        self.meter.note(decoded=produced, prefilled=prefilled, seconds=seconds)


def _overdue(sequence: Sequence) -> Fault:
    state = "waiting for a slot" if sequence.slot < 0 else "running"
    message = (
        f"the deadline passed while {state}, after {sequence.produced} tokens; "
        "allow more time or ask for fewer tokens"
    )
    return Fault(code="deadline_exceeded", message=message)


def _refusal(request: EngineRequest, fault: Fault) -> Finish:
    return Finish(id=request.id, reason=FinishReason.ERROR, usage=Usage(), fault=fault)
