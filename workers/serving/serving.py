"""Serves deliveries: from the broker's message to an engine, and back to its end.

Whatever goes wrong with one request ends that request, and nothing else.
"""

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from genie import logs
from genie.contracts.inference import Fault, InferenceTask, JobState, PartialAnswer
from genie.errors import CodecError
from workers.bidding.credits import ModelLoad
from workers.bidding.load import InFlightRequests
from workers.engine.errors import EngineBusy, EngineGone
from workers.engine.protocol import EngineEvent, Finish, LoadedEngine, Piece
from workers.serving import policy
from workers.serving.attempt import (
    Attempt,
    BrokerDelivery,
    WorkerIdentity,
    length,
    task_of,
)
from workers.serving.reports import EventReporter, PendingStarts

log = logs.logger("serving")

KEEP = 10_000
KEEP_S = 3_600.0


class CancelledJobs:
    """A bounded memory of job ids; times are monotonic seconds."""

    def __init__(self, *, keep: int = KEEP, keep_s: float = KEEP_S) -> None:
        self._keep, self._keep_s = keep, keep_s
        self._at: OrderedDict[str, float] = OrderedDict()

    def add(self, job_id: str, now: float) -> None:
        """Remember a cancelled job; the oldest ones are forgotten."""
        self._at[job_id] = now
        self._at.move_to_end(job_id)
        while len(self._at) > self._keep or self._is_old(now):
            self._at.popitem(last=False)

    def has(self, job_id: str, now: float) -> bool:
        """True when the job was cancelled not too long ago."""
        at = self._at.get(job_id)
        return at is not None and now - at < self._keep_s

    def _is_old(self, now: float) -> bool:
        return now - next(iter(self._at.values())) >= self._keep_s


PAUSE_S = 0.5
"""After giving a message back, ask for no other: an engine may be dying, and each
delivery counts towards the broker's limit of a job."""

# Bids are no secret: the system's randomness would be asked for at every request.
_random = random.Random()  # noqa: S311


class Serving:
    """Takes deliveries, runs them on the engines that are ready, reports their end.

    ``ready`` gives the engines by model, ``on_slot`` is called from an engine's
    thread when it could take one more like it, ``on_served(model)`` after each one,
    ``now`` is the cloud's clock (deadlines are the cloud's).
    """

    def __init__(
        self,
        me: WorkerIdentity,
        mail: EventReporter,
        *,
        ready: Callable[[], Mapping[str, LoadedEngine]],
        on_slot: Callable[[InferenceTask], None],
        on_served: Callable[[str], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._me, self._mail = me, mail
        self._ready, self._on_slot, self._on_served = ready, on_slot, on_served
        self._now, self._clock = now, clock
        self._lock = threading.Condition()
        self._running: dict[str, Attempt] = {}
        self._loads = InFlightRequests()
        self._paused_until: dict[str, float] = {}
        self._cancels = CancelledJobs()
        self._parked: list[Attempt] = []
        self.starts = PendingStarts(mail, now)

    def take(self, delivery: BrokerDelivery) -> None:
        """Serve one delivery; returns as soon as the engine has it."""
        try:
            task = task_of(delivery)
        except CodecError as error:
            # Only the field is logged: the message itself may quote the user.
            log.warning("dead_lettered", model=delivery.model, field=error.param)
            delivery.reject()
            return
        attempt = self._attempt(task, delivery)
        with self._guarded(attempt):
            self._admit(attempt)

    def tend(self) -> None:
        """Start what had to wait for an empty engine, and say what has started."""
        with self._lock:
            parked, self._parked = self._parked, []
        for attempt in parked:
            with self._guarded(attempt):
                self._admit(attempt)
        self.starts.tend(self._clock())

    def lost(self) -> None:
        """The broker gives all that is in hand to others; what runs goes on here."""
        with self._lock:
            self._parked.clear()
            self._lock.notify_all()
            running = tuple(self._running.values())
        self.starts.lost(running)

    def cancel(self, job_id: str) -> None:
        """End a job here within one engine step, or before it starts."""
        with self._lock:
            self._cancels.add(job_id, self._clock())
        if (attempt := self._find(job_id)) is not None:
            attempt.cancel()

    def resume(self, job_id: str, answers: tuple[PartialAnswer, ...]) -> None:
        """Go on after ``answers`` with a job begun anew here, if it still runs."""
        old = self._find(job_id)
        if old is None or (loaded := self._ready().get(old.task.model)) is None:
            return
        with self._guarded(old), old.lock:
            if old.is_over:
                return
            log.info("resumed", job=job_id, characters=length(answers))
            self._free(old)
            old.cancel()
            self._mail.given_back(old.given_back(self._now()))
            self._start(old.resumed(answers), loaded)

    def say(self, job_id: str, to: str, name: str) -> None:
        """Tell somebody who came later what is written of a job, if it still runs."""
        if (attempt := self._find(job_id)) is not None:
            with attempt.lock:
                self._mail.say(to, attempt.so_far(name))

    def loads(self) -> tuple[ModelLoad, ...]:
        """Every ready model as the credit policy sees it."""
        found = (self.load(model) for model in tuple(self._ready()))
        return tuple(load for load in found if load is not None)

    def load(self, model: str) -> ModelLoad | None:
        """One model as the credit policy sees it; None while it takes nothing."""
        now, loaded = self._clock(), self._ready().get(model)
        if loaded is None or self._paused_until.get(model, now) > now:
            return None
        if model in self._shut():
            return None
        return self._loads.of(
            model, slots=loaded.engine.stats().slots, now=now, dither=_random.random()
        )

    def is_ready(self, model: str) -> bool:
        """True while the model is loaded here."""
        return model in self._ready()

    def wait_idle(self, model: str | None, timeout_s: float) -> bool:
        """Wait until no request (of ``model``) runs; False when some still do."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._holds(model), timeout_s)

    def abandon(self) -> None:
        """Give every message back now; what runs is stopped and says nothing more."""
        with self._lock:
            attempts = [*self._running.values(), *self._parked]
            self._parked.clear()
        for attempt in attempts:
            with attempt.lock:
                if attempt.is_over:  # its outcome is on its way, and acks it
                    continue
                self._requeue(attempt, "stopping")
            attempt.cancel()

    def _attempt(self, task: InferenceTask, delivery: BrokerDelivery) -> Attempt:
        loaded = self._ready().get(task.model)
        return Attempt(
            me=self._me,
            task=task,
            delivery=delivery,
            fingerprint=loaded.fingerprint if loaded else None,
            taken_at=self._clock(),
            queue_s=max(0.0, (self._now() - task.created_at).total_seconds()),
            resume=task.resume,
        )

    def _admit(self, attempt: Attempt) -> None:
        if self._must_wait(attempt.task):
            log.info("parked", job=attempt.task.job_id, crashes=attempt.task.crashes)
            with self._lock:
                self._parked.append(attempt)
            return
        self._serve(attempt)

    def _must_wait(self, task: InferenceTask) -> bool:
        """True while this job and what runs may not be in one engine."""
        if self._find(task.job_id) is not None:
            return False
        return policy.must_wait(task, self._tasks())

    def _shut(self) -> set[str]:
        """Models that take nothing more while a suspect runs, or waits to, alone."""
        with self._lock:
            parked = [it.task.model for it in self._parked]
        return {*parked, *(it.model for it in self._tasks() if policy.runs_alone(it))}

    def _tasks(self) -> list[InferenceTask]:
        with self._lock:
            return [it.task for it in self._running.values() if not it.is_over]

    def _serve(self, attempt: Attempt) -> None:
        if self._adopt(attempt):
            return
        if (refusal := self._refusal(attempt)) is not None:
            self._refuse(attempt, *refusal)
            return
        if (loaded := self._ready().get(attempt.task.model)) is None:
            self._requeue(attempt, "model_not_ready")
            return
        self._start(attempt, loaded)

    def _adopt(self, attempt: Attempt) -> bool:
        """Another copy of what still runs here: that run settles the newer message."""
        if (running := self._find(attempt.task.job_id)) is None:
            return False
        with running.lock:
            if running.is_over:
                return False
            older, running.delivery = running.delivery, attempt.delivery
        # The newer one stays for who takes over from us; after a lost connection the
        # older one is the broker's again, and this tells it nothing.
        older.ack()
        log.info("adopted", job=attempt.task.job_id)
        return True

    def _refusal(self, attempt: Attempt) -> tuple[JobState, Fault] | None:
        if self._cancels.has(attempt.task.job_id, self._clock()):
            return JobState.CANCELLED, policy.CANCELLED
        held, name = attempt.fingerprint, self._me.name
        return policy.refusal_of(attempt.task, self._now(), held, name)

    def _refuse(self, attempt: Attempt, state: JobState, fault: Fault) -> None:
        outcome = attempt.refusal(state, self._now(), fault)
        log.info("refused", job=attempt.task.job_id, state=state.value, code=fault.code)
        self._mail.outcome(attempt.task, outcome, attempt.delivery.ack)

    def _start(self, attempt: Attempt, loaded: LoadedEngine) -> None:
        work_s = policy.work_s(attempt.task, self._now())
        attempt.engine = loaded.engine
        # Held until the start is said or owed: no chunk may overtake it.
        with attempt.lock:
            self._enter(attempt)
            try:
                for request in attempt.requests(work_s):
                    loaded.engine.submit(
                        request, lambda event: self._hear(attempt, event)
                    )
            except (EngineBusy, EngineGone) as error:
                attempt.cancel()  # those of several that it took
                self._requeue(attempt, type(error).__name__)
                return
            self.starts.owe(attempt)
        if self._cancels.has(attempt.task.job_id, self._clock()):  # it came meanwhile
            attempt.cancel()

    def _hear(self, attempt: Attempt, event: EngineEvent) -> None:
        """Take one event, in the engine's own thread."""
        try:  # and not `_guarded`: every token passes here
            with attempt.lock:
                if attempt.is_over:
                    return
                if isinstance(event, Piece):
                    self._hear_piece(attempt, event)
                else:
                    self._hear_end(attempt, event)
        except Exception as error:  # noqa: BLE001  # it is logged, and ends the job
            self._spoil(attempt, error)

    def _hear_piece(self, attempt: Attempt, piece: Piece) -> None:
        if self._loads.heard(attempt.task.model, piece.id, self._clock()):
            self._on_slot(attempt.task)
        if (chunk := attempt.add(piece)) is not None:
            self.starts.say(attempt)
            self._mail.chunk(attempt.task, chunk)

    def _hear_end(self, attempt: Attempt, event: Finish) -> None:
        finish = attempt.end(event)
        if event.fault is None or not event.fault.retryable:
            self._learn(attempt, event)
        if finish is None:
            self._on_slot(attempt.task)
            self.starts.say(attempt)
            self._send_rest(attempt)
            return
        self._end(attempt, finish)
        if attempt.in_engine:  # a fault of one of several ends the others
            attempt.cancel()

    def _learn(self, attempt: Attempt, event: Finish) -> None:
        # Before its outcome is written: the next request travels meanwhile.
        if attempt.resume:
            self._loads.end(attempt.task.model, event.id)
        else:
            self._loads.finished(attempt.task.model, event.id, event, self._clock())

    def _send_rest(self, attempt: Attempt) -> None:
        for chunk in attempt.rest():
            self._mail.chunk(attempt.task, chunk)

    def _end(self, attempt: Attempt, finish: Finish) -> None:
        if finish.fault is not None and finish.fault.retryable:
            self._interrupted(attempt, finish.fault)
            return
        now, written = self._now(), attempt.written
        again = policy.continued_task(attempt.task, finish.fault, written, now)
        if again is not None:
            self._hand_on(attempt, again)
            return
        # The slot first: the next request travels while this one's end is written.
        self._free(attempt)
        self._send_rest(attempt)
        outcome = attempt.outcome(finish, self._now(), self._clock())
        self._mail.outcome(attempt.task, outcome, attempt.ack)
        self._leave(attempt)
        if finish.fault is None:
            self._on_served(attempt.task.model)

    def _hand_on(self, attempt: Attempt, again: InferenceTask) -> None:
        """It has worked here for as long as it may: somebody goes on with it."""
        log.info("handed_on", job=again.job_id, characters=length(again.resume))
        self.starts.say(attempt)
        self._free(attempt)
        self._send_rest(attempt)
        self._mail.given_back(attempt.given_back(self._now()))
        self._mail.again(again, attempt.ack)
        self._leave(attempt)

    def _interrupted(self, attempt: Attempt, fault: Fault) -> None:
        if not policy.is_crash(fault):
            self._requeue(attempt, fault.code)
            return
        self._paused_until[attempt.task.model] = self._clock() + PAUSE_S
        self.starts.say(attempt)  # however soon it crashed, it was an attempt
        self._free(attempt)
        again = policy.count_crash(attempt.task)
        if again is None:
            log.error("poison", job=attempt.task.job_id)
            self._refuse(attempt, JobState.FAILED, policy.POISON)
        else:
            # Not requeued: the count has to travel with it.
            log.warning("crashed", job=again.job_id, crashes=again.crashes)
            self._mail.again(again, attempt.ack)
        self._leave(attempt)

    def _requeue(self, attempt: Attempt, reason: str) -> None:
        log.info("requeued", job=attempt.task.job_id, reason=reason)
        self._paused_until[attempt.task.model] = self._clock() + PAUSE_S
        self._free(attempt)
        requeue = attempt.delivery.requeue
        if attempt.has_started:
            # Said first: the next worker's start must not overtake it.
            self._mail.given_back(attempt.given_back(self._now()), requeue)
        else:
            requeue()
        self._leave(attempt)

    @contextmanager
    def _guarded(self, attempt: Attempt) -> Iterator[None]:
        """A surprise must neither kill the thread that serves all others nor come back
        for ever: it ends its job."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # it is logged, and ends the job
            self._spoil(attempt, error)

    def _spoil(self, attempt: Attempt, error: Exception) -> None:
        """End a job on which we failed ourselves, with the class of the error."""
        kind = type(error).__name__
        log.error("internal_error", job=attempt.task.job_id, error=kind, exc_info=error)
        message = f"the worker failed on this job ({kind}); see its log"
        self._free(attempt)
        fault = Fault(code="internal_error", message=message)
        self._refuse(attempt, JobState.FAILED, fault)
        self._leave(attempt)
        attempt.cancel()

    def _enter(self, attempt: Attempt) -> None:
        size = len(attempt.delivery.body)
        with self._lock:
            self._running[attempt.task.job_id] = attempt
            for engine_id in attempt.in_engine:
                self._loads.begin(
                    attempt.task.model,
                    engine_id,
                    size,
                    self._clock(),
                    yields=attempt.yields,
                )
                size = 0  # one of several reads the prompt for all

    def _free(self, attempt: Attempt) -> None:
        """Give the slot back, once; before `_leave`, which says it is all over."""
        if attempt.is_over:
            return
        attempt.is_over = True
        self.starts.drop(attempt)
        with self._lock:
            if self._running.get(attempt.task.job_id) is not attempt:
                return
            for engine_id in attempt.engine_ids:
                self._loads.end(attempt.task.model, engine_id)
        self._on_slot(attempt.task)

    def _leave(self, attempt: Attempt) -> None:
        with self._lock:
            if self._running.get(attempt.task.job_id) is attempt:
                del self._running[attempt.task.job_id]
            self._lock.notify_all()

    def _find(self, job_id: str) -> Attempt | None:
        with self._lock:
            return self._running.get(job_id)

    def _holds(self, model: str | None) -> bool:
        here = (*self._running.values(), *self._parked)
        return any(model in (None, it.task.model) for it in here)
