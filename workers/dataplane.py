"""The consumers of this worker: opens and closes credits as the policy says.

One connection and thread of its own on both transports. An engine's thread wakes it
the moment a slot comes free, so an idle worker never waits for a timer.
"""

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from genie import logs
from genie.messaging import broker
from genie.messaging.pump import Pump
from workers.attempt import Delivery
from workers.credits import RENEW_S, Credit, CreditChange, Held, Open, Renew, decide
from workers.serving import Serving
from workers.watchdog import Seen, Watchdog

if TYPE_CHECKING:
    from kombu.transport.base import StdChannel

log = logs.logger("dataplane")

SETTLE_S = 0.02
"""An interactive credit unanswered for this long: nothing waits for it."""

TICK_S = 0.25
SOON_S = 0.04
"""While a credit has not settled, background work may be due any moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Consumer:
    """An open credit's: unanswered since ``opened_at``, its bid drawn at ``bid_at``."""

    tag: str
    priority: int
    opened_at: float
    bid_at: float

    def held(self, now: float) -> Held:
        """The same as the policy sees it."""
        return Held(
            priority=self.priority,
            is_settled=now - self.opened_at >= SETTLE_S,
            is_old=now - self.bid_at >= RENEW_S,
        )


class DataPlane:
    """Holds one prefetch-1 consumer for each open credit."""

    def __init__(
        self, url: str, *, name: str, queues: tuple[str, ...], serving: Serving
    ) -> None:
        self._queues, self._serving = queues, serving
        self._is_memory = broker.is_memory(url)
        self._name = name
        self._tags = itertools.count()
        self._declared: dict[Credit, str] = {}
        self._open: dict[Credit, _Consumer] = {}
        self._is_settling = self._again = False
        self._is_closed = False
        self._watchdog = Watchdog()
        self._stopping = threading.Event()
        self._pump = Pump(
            url, name=f"{name}.data", on_connect=self._connect, on_lost=self._lost
        )
        self._ticker = threading.Thread(
            target=self._tick, name=f"{name}.tick", daemon=True
        )

    def start(self) -> None:
        """Connect and ask for work as soon as a model is ready."""
        self._pump.start()
        self._ticker.start()

    def stop(self) -> None:
        """Close the connection; what is not acked goes back to the broker."""
        self._stopping.set()
        self._ticker.join(TICK_S * 4)
        self._pump.stop()

    def wake(self) -> None:
        """Look at the engines again, now; from any thread, never blocks."""
        self._pump.call(self._settle)

    def close_credits(self) -> None:
        """Take nothing more; what is in hand goes on."""
        self._is_closed = True
        self.wake()

    def resume(self) -> None:
        """Take work again."""
        self._is_closed = False
        self.wake()

    @property
    def is_connected(self) -> bool:
        """True while the broker's connection is up."""
        return self._pump.is_connected

    def wait_connected(self, timeout_s: float) -> bool:
        """True once connected; False when that took longer."""
        return self._pump.wait_connected(timeout_s)

    def _tick(self) -> None:
        # Two things change without an event: a credit settles, a prefill queue drains.
        while not self._stopping.wait(SOON_S if self._is_unsettled() else TICK_S):
            self.wake()

    def _is_unsettled(self) -> bool:
        now = time.monotonic()
        return any(
            now - one.opened_at < SETTLE_S + SOON_S
            for one in tuple(self._open.values())
        )

    def _connect(self, channel: "StdChannel") -> None:
        self._open.clear()
        self._declared.clear()
        if not self._is_memory:
            # Each consumer of this channel holds at most one message not yet acked.
            # In memory the count is per channel; there, closing on delivery does it.
            channel.basic_qos(0, 1, False)
        self._settle(channel)

    def _lost(self) -> None:
        # The broker gives what we hold to others; what runs here still ends in an
        # outcome, and the first one of a job wins.
        self._open.clear()
        self._serving.drop_parked()

    def _settle(self, channel: "StdChannel") -> None:
        if self._is_settling:  # a delivery came while a consumer was being closed
            self._again = True
            return
        self._is_settling = True
        try:
            self._change(channel)
            while self._again:
                self._again = False
                self._change(channel)
        finally:
            self._is_settling = self._again = False

    def _change(self, channel: "StdChannel") -> None:
        now = time.monotonic()
        held = {credit: one.held(now) for credit, one in self._open.items()}
        self._guard(channel, now)
        self._serving.tend()
        loads = () if self._is_closed else self._serving.loads()
        for change in decide(loads, self._queues, held):
            self._apply(channel, change)

    def _guard(self, channel: "StdChannel", now: float) -> None:
        """Ask the broker about credits nobody answered; start anew if it is deaf."""
        if self._is_memory:
            return
        opened = {credit: one.opened_at for credit, one in self._open.items()}
        seen: dict[Credit, Seen] = {}
        for credit in self._watchdog.doubted(opened, now):
            found = channel.queue_declare(self._declared[credit], passive=True)
            if credit in self._open:  # else it was answered meanwhile
                seen[credit] = Seen(
                    opened_at=opened[credit],
                    waiting=found.message_count,
                    consumers=found.consumer_count,
                )
        if seen and self._watchdog.is_deaf(seen):
            log.error("not_consuming", queues=[self._declared[one] for one in seen])
            raise ConnectionResetError("the broker does not know of our consumers")

    def _apply(self, channel: "StdChannel", change: CreditChange) -> None:
        if isinstance(change, Open):
            self._subscribe(channel, change, time.monotonic())
            return
        taken = self._open.pop(change.credit, None)
        if taken is None:
            return
        # Waits for the broker's word: a message under way is taken, not bounced.
        channel.basic_cancel(taken.tag)
        if isinstance(change, Renew) and not self._again:  # else look before asking
            self._subscribe(channel, change, taken.opened_at)

    def _subscribe(
        self, channel: "StdChannel", change: Open | Renew, opened_at: float
    ) -> None:
        credit, tag = change.credit, f"{self._name}.{next(self._tags)}"
        queue = self._queue(channel, credit)
        self._open[credit] = _Consumer(
            tag=tag,
            priority=change.priority,
            opened_at=opened_at,
            bid_at=time.monotonic(),
        )
        channel.basic_consume(
            queue,
            no_ack=False,
            callback=partial(self._delivered, channel, credit, tag),
            consumer_tag=tag,
            arguments={"x-priority": change.priority},
            # Waiting for the broker's word would be one more turn of this thread.
            nowait=True,
        )

    def _queue(self, channel: "StdChannel", credit: Credit) -> str:
        if credit not in self._declared:
            queue = broker.declare_model_queue(
                channel, credit.queue, credit.model, credit.work_class
            )
            self._declared[credit] = queue.name
        return self._declared[credit]

    def _delivered(
        self,
        channel: "StdChannel",
        credit: Credit,
        tag: str,
        message: Any,  # amqp's message or the in-memory one: they share no type
    ) -> None:
        taken = self._open.get(credit)
        if taken is not None and taken.tag == tag:
            del self._open[credit]
            self._hang_up(channel, tag)
        delivery = self._delivery(channel, credit, message)
        self._serving.take(delivery)
        self._settle(channel)

    def _hang_up(self, channel: "StdChannel", tag: str) -> None:
        if self._is_memory:
            channel.basic_cancel(tag)
            return
        # No answer needed: with one message unacked the broker sends no second one.
        channel.basic_cancel(tag, nowait=True)
        channel.callbacks.pop(tag, None)

    def _delivery(
        self, channel: "StdChannel", credit: Credit, message: Any
    ) -> Delivery:
        tag = message.delivery_tag

        def settle(act: Callable[["StdChannel"], None]) -> None:
            # A tag means something on its own channel only.
            self._pump.call(lambda now: act(now) if now is channel else None)

        return Delivery(
            body=message.body,
            model=credit.model,
            redelivered=bool(message.delivery_info.get("redelivered")),
            ack=lambda: settle(lambda on: on.basic_ack(tag)),
            requeue=lambda: settle(lambda on: on.basic_reject(tag, requeue=True)),
            reject=lambda: settle(lambda on: on.basic_reject(tag, requeue=False)),
        )
