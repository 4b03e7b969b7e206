"""One queue of RabbitMQ in simulated time: consumer priorities, credit, round robin.

A message goes to the consumer of the highest priority that may take one more; among
equals to the one that has waited longest. Times are those measured on RabbitMQ 3.10,
classic queues, on loopback.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.simulator.clock import Clock
from benchmarks.simulator.worker import Request

PUSH_S = 0.73e-3 / 2
"""From a publisher into a queue, or from a queue to a consumer that waits."""

CONSUME_S = 0.4e-3
"""Until a consumer that was opened or cancelled is so at the broker."""


@dataclass(slots=True, kw_only=True, eq=False)
class Consumer:
    """``deliver`` is called with each request; ``credit`` more may be sent."""

    deliver: Callable[[Request], None]
    priority: int = 0
    credit: int = 1
    turn: int = 0


class Queue:
    """Requests that wait, and consumers that wait for them."""

    def __init__(self, clock: Clock) -> None:
        self.ready: deque[Request] = deque()
        self._clock = clock
        self._consumers: list[Consumer] = []
        self._turns = itertools.count()

    def publish(
        self,
        request: Request,
        wait_s: float = math.inf,
        dead: Callable[[Request], None] | None = None,
    ) -> None:
        """Add a request; it is in the queue a little later.

        One that nobody took for ``wait_s`` leaves the queue and is given to ``dead``.
        """
        self._clock.after(PUSH_S, lambda: self._arrive(request))
        if dead is not None:
            late = partial(self._expire, request, dead)
            self._clock.after(PUSH_S + wait_s, late)

    def consume(self, consumer: Consumer) -> None:
        """Open a consumer; it counts a little later."""
        self._clock.after(CONSUME_S, lambda: self._open(consumer))

    def cancel(self, consumer: Consumer) -> None:
        """Close a consumer; what is sent to it before that is still delivered."""
        self._clock.after(CONSUME_S, lambda: self._close(consumer))

    def ack(self, consumer: Consumer) -> None:
        """A request of this consumer is done: it may take another."""
        self._clock.after(PUSH_S, lambda: self._acked(consumer))

    def _arrive(self, request: Request) -> None:
        self.ready.append(request)
        self._match()

    def _expire(self, request: Request, dead: Callable[[Request], None]) -> None:
        if request in self.ready:
            self.ready.remove(request)
            dead(request)

    def _open(self, consumer: Consumer) -> None:
        consumer.turn = next(self._turns)
        self._consumers.append(consumer)
        self._match()

    def _close(self, consumer: Consumer) -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def _acked(self, consumer: Consumer) -> None:
        consumer.credit += 1
        self._match()

    def _match(self) -> None:
        while self.ready and (taker := self._taker()) is not None:
            taker.credit -= 1
            taker.turn = next(self._turns)
            self._send(taker, self.ready.popleft())

    def _taker(self) -> Consumer | None:
        able = [one for one in self._consumers if one.credit > 0]
        return max(able, key=lambda one: (one.priority, -one.turn), default=None)

    def _send(self, consumer: Consumer, request: Request) -> None:
        self._clock.after(PUSH_S, lambda: consumer.deliver(request))
