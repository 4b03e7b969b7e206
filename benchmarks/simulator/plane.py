"""A worker's data plane in simulated time, around the product's own credit policy.

What `workers.bidding.consumers` does with threads and a channel happens here on the
clock: the same wakings, the same settling, around the same `InFlightRequests` and
`decide`.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from benchmarks.simulator.broker import Consumer, Queue
from benchmarks.simulator.clock import Clock
from benchmarks.simulator.worker import Request, Worker
from genie.contracts.inference import FinishReason, Usage, WorkClass
from workers.bidding.consumers import SETTLE_S, SOON_S, TICK_S
from workers.bidding.credits import (
    RENEW_S,
    CloseCredit,
    Credit,
    CreditChange,
    CreditStatus,
    ModelLoad,
    OpenCredit,
    decide,
)
from workers.bidding.load import InFlightRequests
from workers.engine.protocol import Finish

MODEL, SHARED, OWN = "llama2:7b", "genie", "own"

ENVELOPE_BYTES, BYTES_A_TOKEN, SIZE_SIGMA = 700, 4.0, 0.2
"""What a message's size says about its tokens: a mean, and how far it is off."""

Queues = Mapping[tuple[str, WorkClass], Queue]
Decide = Callable[[ModelLoad, dict[Credit, CreditStatus]], tuple[CreditChange, ...]]


def product(
    load: ModelLoad, held: dict[Credit, CreditStatus]
) -> tuple[CreditChange, ...]:
    """The policy as the worker runs it, for one model and the shared queue."""
    return decide([load], [SHARED], held)


def hinted(
    load: ModelLoad, held: dict[Credit, CreditStatus]
) -> tuple[CreditChange, ...]:
    """The same with a queue of the worker's own beside the shared one."""
    return decide([load], [OWN, SHARED], held)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """An open credit: unanswered since ``opened_at``, its bid drawn at ``bid_at``."""

    consumer: Consumer
    opened_at: float
    bid_at: float

    def held(self, now: float) -> CreditStatus:
        """The same as the policy sees it."""
        return CreditStatus(
            priority=self.consumer.priority,
            is_settled=now - self.opened_at >= SETTLE_S,
            is_old=now - self.bid_at >= RENEW_S,
        )


class Plane:
    """The consumers of one worker; ``queues`` by logical queue and class of work."""

    def __init__(
        self,
        clock: Clock,
        worker: Worker,
        queues: Queues,
        chance: random.Random,
        policy: Decide = product,
    ) -> None:
        self._clock, self._worker, self._queues = clock, worker, queues
        self._chance, self._decide = chance, policy
        self._open: dict[Credit, _Opened] = {}
        self._loads = InFlightRequests()
        worker.on_first.append(self._heard)
        worker.on_done.append(self._freed)
        self._settle()
        clock.after(chance.random() * TICK_S, self._tick)

    def _tick(self) -> None:
        self._settle()
        young_s = SETTLE_S + SOON_S
        opened = self._open.values()
        is_young = any(self._clock.now - one.opened_at < young_s for one in opened)
        self._clock.after(SOON_S if is_young else TICK_S, self._tick)

    def _heard(self, _worker: Worker, request: Request) -> None:
        if self._loads.heard(MODEL, request.id, self._clock.now):
            self._settle()

    def _freed(self, _worker: Worker, request: Request) -> None:
        self._loads.finished(MODEL, request.id, _finish(request), self._clock.now)
        self._settle()

    def _settle(self) -> None:
        now = self._clock.now
        held = {credit: one.held(now) for credit, one in self._open.items()}
        for change in self._decide(self._load(), held):
            self._apply(change, now)

    def _apply(self, change: CreditChange, now: float) -> None:
        opened_at = now
        if isinstance(change, CloseCredit) or change.is_renewal:
            taken = self._open.pop(change.credit)
            self._queue(change.credit).cancel(taken.consumer)
            opened_at = taken.opened_at
        if isinstance(change, OpenCredit):
            self._subscribe(change, opened_at)

    def _queue(self, credit: Credit) -> Queue:
        return self._queues[credit.queue, credit.work_class]

    def _load(self) -> ModelLoad:
        return self._loads.of(
            MODEL,
            slots=self._worker.room.slots,
            now=self._clock.now,
            dither=self._chance.random(),
        )

    def _subscribe(self, change: OpenCredit, opened_at: float) -> None:
        take = partial(self._delivered, change.credit)
        consumer = Consumer(deliver=take, priority=change.priority)
        self._open[change.credit] = _Opened(
            consumer=consumer, opened_at=opened_at, bid_at=self._clock.now
        )
        self._queue(change.credit).consume(consumer)

    def _delivered(self, credit: Credit, request: Request) -> None:
        taken = self._open.get(credit)
        if taken is not None and taken.consumer.credit == 0:
            del self._open[credit]
            self._queue(credit).cancel(taken.consumer)
        now = self._clock.now
        self._loads.begin(MODEL, request.id, self._size(request), now)
        request.given_at = now
        self._worker.submit(request)
        self._settle()

    def _size(self, request: Request) -> int:
        """The message's bytes: a worker does not know a prompt's tokens beforehand."""
        error = self._chance.lognormvariate(0.0, SIZE_SIGMA)
        return ENVELOPE_BYTES + round(BYTES_A_TOKEN * request.arrival.prompt * error)


def _finish(request: Request) -> Finish:
    """The engine's last word."""
    return Finish(
        id=request.id,
        reason=FinishReason.STOP,
        usage=Usage(
            prompt_tokens=request.arrival.prompt,
            completion_tokens=request.arrival.answer,
        ),
        first_token_s=request.first_at - request.given_at,
        total_s=request.done_at - request.given_at,
    )
