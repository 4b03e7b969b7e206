"""The consumers of this worker: opens and closes credits as the policy says.

One connection and thread of its own on both transports. An engine's thread wakes it
the moment a slot comes free, so an idle worker never waits for a timer.

Background queues have a channel of their own, and this thread never waits for an answer
on it: they are quorum queues, which may be silent for many seconds after a crash of the
broker, and the broker handles what comes on one channel strictly in order.
"""

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from amqp.exceptions import RecoverableConnectionError

from genie import logs, topology
from genie.contracts.inference import WorkClass
from genie.messaging import broker, light
from genie.messaging.pump import Pump
from workers.bidding.credits import (
    RENEW_S,
    Bidders,
    Credit,
    CreditChange,
    CreditStatus,
    ModelLoad,
    OpenCredit,
    RenewCredit,
    decide,
)
from workers.bidding.watchdog import CreditWatchdog, QueueObservation
from workers.serving.attempt import BrokerDelivery
from workers.serving.serving import Serving

if TYPE_CHECKING:
    from amqp.protocol import queue_declare_ok_t
    from kombu.transport.base import StdChannel

log = logs.logger("dataplane")

SETTLE_S = 0.02
"""An interactive credit unanswered for this long: nothing waits for it."""

TICK_S = 0.25
SOON_S = 0.02
"""While a credit has not settled, background work may be due any moment."""

QUORUM_S = 50.0
"""A background credit is this much longer without doubt: to ask a quorum queue that has
no leader yet would hold up everything."""


def is_background(credit: Credit) -> bool:
    """True for work that nobody sits and waits for."""
    return credit.work_class is not WorkClass.INTERACTIVE


@dataclass(slots=True, kw_only=True)
class _CreditConsumer:
    """An open credit's: unanswered since ``opened_at``, its bid drawn at ``bid_at``.

    One of several ``places`` stays open; ``pushed`` came and could not begin yet, and
    ``unacked`` counts those as well.
    """

    tag: str
    priority: int
    opened_at: float
    bid_at: float
    places: int = 1
    pushed: deque[BrokerDelivery] = field(default_factory=deque)
    unacked: set[int] = field(default_factory=set)

    @property
    def is_full(self) -> bool:
        """True when the broker can send it nothing more."""
        return len(self.unacked) >= self.places

    def held(self, now: float) -> CreditStatus:
        """The same as the policy sees it."""
        is_unanswered = now - self.opened_at >= SETTLE_S
        return CreditStatus(
            priority=self.priority,
            is_settled=is_unanswered and not self.is_full,
            is_old=now - self.bid_at >= RENEW_S,
            places=self.places,
        )


class DataPlane:
    """Holds a consumer for each open credit, and takes what comes to it.

    A delivery closes it, except where nobody else bids: there it stays open, and what
    comes while the engine has no place for it waits here, to begin or to be given back.
    """

    def __init__(
        self, url: str, *, name: str, queues: tuple[str, ...], serving: Serving
    ) -> None:
        self._queues, self._serving = queues, serving
        self._is_memory = broker.is_memory(url)
        self._name = name
        self._tags = itertools.count()
        self._channels: tuple[StdChannel, ...] = ()  # of this connection, by urgency
        self._declared: dict[Credit, str] = {}
        self._open: dict[Credit, _CreditConsumer] = {}
        self._in_hand: dict[Credit, set[int]] = {}  # what came and is not acked
        self._present: dict[Credit, str] = {}
        self._bidders = Bidders()
        self._places = 1
        self._is_stale = self._has_heard = False
        self._look_at = 0.0
        self._is_closed = False
        self._watchdog = CreditWatchdog()
        self._pump = Pump(
            url,
            name=f"{name}.data",
            on_connect=self._connect,
            on_lost=self._lost,
            on_quiet=self._quiet,
            rest_s=self._rest_s,
        )

    def start(self) -> None:
        """Connect and ask for work as soon as a model is ready."""
        self._pump.start()

    def stop(self) -> None:
        """Close the connection; what is not acked goes back to the broker."""
        self._pump.stop()

    def wake(self) -> None:
        """Look at the engines again, now; from any thread, never blocks."""
        self._is_stale = True
        self._pump.wake()

    def slot_freed(self, model: str, work_class: WorkClass) -> None:
        """A request of ``model`` could start now that could not before.

        While a credit for more of the same is open there is no hurry: the next turn of
        this thread is soon enough for the others. Where one stays open nothing changes.
        """
        for credit, one in tuple(self._open.items()):
            if (credit.model, credit.work_class) != (model, work_class):
                continue
            if one.places == 1:
                self._is_stale = True
                return
            if not one.pushed:
                return
        self._is_stale = True
        self._pump.wake()

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

    def _rest_s(self) -> float:
        """Seconds until the engines must be looked at again, whatever happens.

        Two things change without an event: a credit settles, a prefill queue drains.
        """
        return 0.0 if self._is_stale else max(0.0, self._look_at - time.monotonic())

    def _quiet(self, _channel: "StdChannel") -> None:
        # Once for all that has come: deliveries, acks, slots, and time that passed.
        if self._rest_s() == 0.0:
            self._is_stale = False
            self._change()
            is_soon = self._serving.starts.are_owed or self._is_unsettled()
            self._look_at = time.monotonic() + (SOON_S if is_soon else TICK_S)

    def _is_unsettled(self) -> bool:
        now = time.monotonic()
        return any(
            now - one.opened_at < SETTLE_S + SOON_S
            for one in tuple(self._open.values())
        )

    def _connect(self, channel: "StdChannel") -> None:
        self._forget()
        self._declared.clear()
        self._channels = (channel, self._background(channel))
        if not self._is_memory:
            # Each consumer of a channel holds at most one message not yet acked.
            # In memory the count is per channel; there, closing on delivery does it.
            for one in self._channels:
                one.basic_qos(0, 1, False)
        self._places = 1
        self._is_stale = True

    def _forget(self) -> None:
        self._open.clear()
        self._in_hand.clear()
        self._present.clear()
        self._bidders.clear()

    def _background(self, channel: "StdChannel") -> "StdChannel":
        """Another channel beside ``channel``; in memory none is needed."""
        if self._is_memory:
            return channel
        opened: StdChannel = channel.connection.channel()
        opened.auto_decode = False
        return opened

    def _channel(self, credit: Credit) -> "StdChannel":
        return self._channels[is_background(credit)]

    def _lost(self) -> None:
        # The broker gives what we hold to others; what runs here still ends in an
        # outcome, and the first one of a job wins.
        self._forget()
        self._serving.lost()

    def _change(self) -> None:
        now = time.monotonic()
        self._guard(now)
        self._serving.tend()
        self._begin_pushed()
        held = {credit: one.held(now) for credit, one in self._open.items()}
        loads = () if self._is_closed else self._serving.loads()
        for change in decide(loads, self._queues, held, alone=self._alone(loads)):
            self._apply(change)
        self._count(now)

    def _alone(self, loads: Iterable[ModelLoad]) -> dict[Credit, int]:
        """The credits nobody else bids on, and how many of each have begun."""
        if self._is_memory:
            return {}
        for load in loads:
            if load.is_crowded and load.measured:
                self._bidders.crowded(load.model)
        alone = filter(self._bidders.are_alone, self._present)
        return {credit: self._count_begun(credit) for credit in alone}

    def _count_begun(self, credit: Credit) -> int:
        open_ = self._open.get(credit)
        waiting = len(open_.pushed) if open_ is not None else 0
        return max(0, len(self._in_hand.get(credit, ())) - waiting)

    def _count(self, now: float) -> None:
        """Ask the broker who else asks for work, once in a while."""
        if self._is_memory:
            return
        for credit in self._bidders.due(tuple(self._open), now):
            is_new = credit not in self._present
            if is_new:
                self._show(credit)
            shown = topology.bidders(credit.queue, credit.model)
            bidders = self._look(credit, shown).consumer_count
            # A worker of an earlier release is seen only while it could take some.
            asking = self._look(credit, self._declared[credit]).consumer_count
            self._bidders.saw(credit, max(bidders, asking))
            self._is_stale = True
            if is_new and bidders > 1:
                self._tell(credit, shown, bidders)
        for credit in tuple(self._present):
            if not self._serving.is_ready(credit.model):
                light.hang_up(self._channel(credit), self._present.pop(credit))

    def _show(self, credit: Credit) -> None:
        """Be counted among those who ask there."""
        tag = self._present[credit] = f"{self._name}.{next(self._tags)}"
        channel = self._channel(credit)
        queue = broker.bidders_queue(credit.queue, credit.model)(channel)
        queue.declare()
        hear = partial(self._told, credit)
        light.subscribe(channel, queue.name, hear, tag=tag, no_ack=True)

    def _tell(self, credit: Credit, name: str, bidders: int) -> None:
        """Let the others know that they are not alone; each gets one of them."""
        for _ in range(bidders):
            light.publish(self._channel(credit), b"", key=name, confirmed=False)

    def _told(self, credit: Credit, _message: light.Arrived) -> None:
        self._bidders.doubt(credit)
        self._is_stale = True

    def _look(self, credit: Credit, name: str) -> "queue_declare_ok_t":
        """What the broker says of a queue of an interactive credit."""
        return self._channel(credit).queue_declare(name, passive=True)

    def _guard(self, now: float) -> None:
        """Ask the broker about credits nobody answered; start anew if it is deaf."""
        if self._is_memory:
            return
        opened = {
            credit: one.opened_at + (QUORUM_S if is_background(credit) else 0.0)
            for credit, one in self._open.items()
            if not one.is_full
        }
        seen: dict[Credit, QueueObservation] = {}
        for credit in self._watchdog.doubted(opened, now):
            found = self._look(credit, self._declared[credit])
            if credit in self._open:  # else it was answered meanwhile
                seen[credit] = QueueObservation(
                    opened_at=opened[credit],
                    waiting=found.message_count,
                    consumers=found.consumer_count,
                )
        if seen and self._watchdog.is_deaf(seen):
            log.error("not_consuming", queues=[self._declared[one] for one in seen])
            raise ConnectionResetError("the broker does not know of our consumers")

    def _apply(self, change: CreditChange) -> None:
        if isinstance(change, OpenCredit):
            self._subscribe(change, time.monotonic())
            return
        taken = self._open.pop(change.credit, None)
        if taken is None:
            return
        channel = self._channel(change.credit)
        if is_background(change.credit):
            light.leave(channel, taken.tag)
            return
        self._has_heard = False
        # Waits for the broker's word: a message under way is taken, not bounced.
        light.let_go(channel, taken.tag)
        if (
            isinstance(change, RenewCredit) and not self._has_heard
        ):  # else look before asking
            self._subscribe(change, taken.opened_at)
        while taken.pushed:
            taken.pushed.popleft().requeue()

    def _subscribe(self, change: OpenCredit | RenewCredit, opened_at: float) -> None:
        credit, tag = change.credit, f"{self._name}.{next(self._tags)}"
        channel, queue = self._channel(credit), self._queue(credit)
        self._open[credit] = _CreditConsumer(
            tag=tag,
            priority=change.priority,
            opened_at=opened_at,
            bid_at=time.monotonic(),
            places=change.places,
        )
        if change.places != self._places and not is_background(credit):
            self._places = change.places  # of consumers that are opened from now on
            channel.basic_qos(0, change.places, False)
        light.subscribe(
            channel,
            queue,
            partial(self._delivered, channel, credit, self._open[credit]),
            tag=tag,
            priority=change.priority,
        )

    def _queue(self, credit: Credit) -> str:
        if credit not in self._declared:
            queue = broker.declare_model_queue(
                self._channel(credit),
                credit.queue,
                credit.model,
                credit.work_class,
                waits=not is_background(credit),
            )
            self._declared[credit] = queue.name
        return self._declared[credit]

    def _delivered(
        self,
        channel: "StdChannel",
        credit: Credit,
        taken: _CreditConsumer,
        message: light.Arrived,
    ) -> None:
        is_open = self._open.get(credit) is taken
        if taken.places > 1:
            self._push(channel, credit, taken, message)
            self._is_stale = self._is_stale or bool(taken.pushed) or not is_open
            return
        if is_open:
            del self._open[credit]
            # No answer needed: with one message unacked the broker sends no second one.
            light.hang_up(channel, taken.tag)
        self._serving.take(self._delivery(channel, credit, taken, message))
        self._is_stale = self._has_heard = True

    def _push(
        self,
        channel: "StdChannel",
        credit: Credit,
        taken: _CreditConsumer,
        message: light.Arrived,
    ) -> None:
        """Begin what came to a consumer that stays open, or keep it for a moment."""
        taken.opened_at = now = time.monotonic()
        taken.pushed.append(self._delivery(channel, credit, taken, message))
        self._begin(credit, taken)
        self._look_at = min(self._look_at, now + SOON_S)  # a start may be owed by then

    def _begin_pushed(self) -> None:
        for credit, taken in tuple(self._open.items()):
            self._begin(credit, taken)

    def _begin(self, credit: Credit, taken: _CreditConsumer) -> None:
        while taken.pushed:
            load = self._serving.load(credit.model)
            if load is None or not load.can_begin:
                return
            self._serving.take(taken.pushed.popleft())

    def _delivery(
        self,
        channel: "StdChannel",
        credit: Credit,
        taken: _CreditConsumer,
        message: light.Arrived,
    ) -> BrokerDelivery:
        tag, in_hand = message.tag, self._in_hand.setdefault(credit, set())
        in_hand.add(tag)
        taken.unacked.add(tag)

        def settle(act: Callable[["StdChannel"], None]) -> None:
            in_hand.discard(tag)
            taken.unacked.discard(tag)
            act(channel)

        def reject(*, requeue: bool) -> None:
            self._call(channel, lambda on: on.basic_reject(tag, requeue=requeue))

        is_next = taken.places == 1  # else nothing more is written for it
        return BrokerDelivery(
            body=message.body,
            model=credit.model,
            redelivered=message.redelivered,
            ack=partial(settle, partial(self._ack, tag=tag, waits=is_next)),
            requeue=partial(settle, lambda _: reject(requeue=True)),
            reject=partial(settle, lambda _: reject(requeue=False)),
        )

    def _call(self, channel: "StdChannel", act: Callable[["StdChannel"], None]) -> None:
        def act_there(_channel: "StdChannel") -> None:
            if channel in self._channels:  # a tag means something there only
                act(channel)

        self._pump.call(act_there)

    def _ack(self, channel: "StdChannel", tag: int, *, waits: bool = True) -> None:
        """From any thread; it ``waits`` for what is written next if that is soon."""
        if not light.is_shared(channel):
            self._call(channel, lambda on: light.ack(on, tag))
            return
        # If it is gone, so is the delivery: somebody else has got the message.
        with contextlib.suppress(OSError, RecoverableConnectionError):
            light.ack(channel, tag, is_held=True)
            # It leaves with what our thread writes next. Looked at after it was held,
            # so that either that turn comes soon or it has seen this one. One that is
            # overdue waits for the broker.
            if not waits or abs(self._look_at - time.monotonic()) > SOON_S:
                light.flush(channel)
