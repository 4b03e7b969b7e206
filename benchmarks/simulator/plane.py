"""A worker's data plane in simulated time, around the product's own credit policy.

What `workers.dataplane` does with threads and a channel happens here on the clock:
the same wakings, the same settling, the same `decide` and `bid`. Nothing is decided
here.
"""

import random
from collections.abc import Callable
from functools import partial

from benchmarks.simulator.broker import Consumer, Queue
from benchmarks.simulator.clock import Clock
from benchmarks.simulator.worker import Request, Worker
from genie.contracts.inference import WorkClass
from workers.credits import Credit, CreditChange, Held, Load, Open, bid, decide
from workers.dataplane import SETTLE_S, SOON_S, TICK_S
from workers.serving import SPEED_WEIGHT

MODEL, SHARED = "llama2:7b", "genie"

Decide = Callable[[Load, dict[Credit, Held]], tuple[CreditChange, ...]]


def product(load: Load, held: dict[Credit, Held]) -> tuple[CreditChange, ...]:
    """The policy as the worker runs it, for one model and the shared queue."""
    return decide([load], [SHARED], held)


class Plane:
    """The consumers of one worker. ``queues`` has one for each class of work."""

    def __init__(
        self,
        clock: Clock,
        worker: Worker,
        queues: dict[WorkClass, Queue],
        chance: random.Random,
        policy: Decide = product,
    ) -> None:
        self._clock, self._worker, self._queues = clock, worker, queues
        self._chance, self._decide = chance, policy
        self._open: dict[Credit, tuple[Consumer, float]] = {}
        self._in_flight = 0
        self._speed: float | None = None
        worker.on_done.append(self._freed)
        self._settle()
        clock.after(chance.random() * TICK_S, self._tick)

    def _tick(self) -> None:
        self._settle()
        opened = (at for _, at in self._open.values())
        is_young = any(self._clock.now - at < SETTLE_S + SOON_S for at in opened)
        self._clock.after(SOON_S if is_young else TICK_S, self._tick)

    def _freed(self, _worker: Worker, request: Request) -> None:
        self._in_flight -= 1
        self._measure(request)
        self._settle()

    def _measure(self, request: Request) -> None:
        tokens, seconds = request.arrival.answer - 1, request.done_at - request.first_at
        if tokens < 1 or seconds <= 0:
            return
        old = self._speed or tokens / seconds
        self._speed = old + SPEED_WEIGHT * (tokens / seconds - old)

    def _settle(self) -> None:
        now = self._clock.now
        held = {
            credit: Held(priority=one.priority, is_settled=now - at >= SETTLE_S)
            for credit, (one, at) in self._open.items()
        }
        for change in self._decide(self._load(), held):
            if isinstance(change, Open):
                self._subscribe(change)
            else:
                consumer, _ = self._open.pop(change.credit)
                self._queues[change.credit.work_class].cancel(consumer)

    def _load(self) -> Load:
        slots = self._worker.room.slots
        return Load(
            model=MODEL,
            slots=slots,
            in_flight=self._in_flight,
            prefill_queued_s=self._worker.reported_prefill_s(),
            bid=bid(
                self._speed,
                in_flight=self._in_flight,
                slots=slots,
                dither=self._chance.random(),
            ),
        )

    def _subscribe(self, change: Open) -> None:
        take = partial(self._delivered, change.credit)
        consumer = Consumer(deliver=take, priority=change.priority)
        self._open[change.credit] = (consumer, self._clock.now)
        self._queues[change.credit.work_class].consume(consumer)

    def _delivered(self, credit: Credit, request: Request) -> None:
        taken = self._open.get(credit)
        if taken is not None and taken[0].credit == 0:
            del self._open[credit]
            self._queues[credit.work_class].cancel(taken[0])
        self._in_flight += 1
        self._worker.submit(request)
        self._settle()
