"""The consumers of this worker: opens and closes credits as the policy says.

All of it happens in the broker's thread, which nothing here keeps waiting. An engine's
thread wakes it the moment a slot comes free, so an idle worker never waits for a timer.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from genie import logs
from genie.contracts.inference import WorkClass
from genie.messaging import broker, queues
from genie.messaging.link import (
    BrokerMessage,
    LinkEvents,
    LinkLost,
    Publication,
    QueueCount,
)
from genie.messaging.queues import QueueSpec
from workers.bidding.credits import (
    RENEW_S,
    Bidders,
    Credit,
    CreditChange,
    CreditStatus,
    CreditWatchdog,
    ModelLoad,
    OpenCredit,
    decide,
)
from workers.serving.attempt import BrokerDelivery
from workers.serving.serving import Serving

log = logs.logger("bidding")

SETTLE_S = 0.02
"""An interactive credit unanswered for this long: nothing waits for it."""

TICK_S = 0.25
SOON_S = 0.02
"""While a credit has not settled, background work may be due any moment."""

QUORUM_S = 50.0
"""A background credit is this much longer without doubt: a quorum queue that has no
leader yet does not answer."""

REFUSED_S = 10.0
"""A queue the broker refused is declared again after so long."""


def is_background(credit: Credit) -> bool:
    """True for work that nobody sits and waits for."""
    return credit.work_class is not WorkClass.INTERACTIVE


def queue_of(credit: Credit) -> QueueSpec:
    """The broker queue of a credit."""
    return queues.model_queue(credit.queue, credit.model, credit.work_class)


@dataclass(slots=True, kw_only=True)
class _CreditConsumer:
    """An open credit's: unanswered since ``opened_at``, its bid drawn at ``bid_at``.

    One of several ``places`` stays open; ``pushed`` came and could not begin yet, and
    ``unacked`` counts those as well.
    """

    priority: int
    opened_at: float
    bid_at: float
    tag: str = ""
    places: int = 1
    is_leaving: bool = False
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
        self._declared: dict[Credit, bool] = {}  # False: asked for, not yet there
        self._open: dict[Credit, _CreditConsumer] = {}
        self._in_hand: dict[Credit, set[int]] = {}  # what came and is not acked
        self._present: dict[Credit, str] = {}
        self._bidders = Bidders()
        self._watchdog = CreditWatchdog()
        self._is_stale = self._is_woken = self._is_closed = False
        self._look_at = self._timer_at = 0.0
        self._link = broker.connect(
            url,
            f"{name}.data",
            LinkEvents(up=self._begin_anew, down=self._lost, quiet=self._quiet),
        )

    def start(self) -> None:
        """Connect and ask for work as soon as a model is ready."""
        self._link.start()

    def stop(self) -> None:
        """Close the connection; what is not acked goes back to the broker."""
        self._link.close()

    def wake(self) -> None:
        """Look at the engines again, now; from any thread, never blocks."""
        self._is_stale = True
        if not self._is_woken:
            self._is_woken = True
            self._link.call(self._quiet)

    def slot_freed(self, model: str, work_class: WorkClass) -> None:
        """A request of ``model`` could start now that could not before.

        While a credit for more of the same is open there is no hurry: the next turn is
        soon enough for the others. Where one stays open nothing changes.
        """
        for credit, one in tuple(self._open.items()):
            if (credit.model, credit.work_class) != (model, work_class):
                continue
            if one.places == 1:
                self._is_stale = True
                return
            if not one.pushed:
                return
        self.wake()

    def close_credits(self) -> None:
        """Take nothing more; what is in hand goes on."""
        self._is_closed = True
        self.wake()

    def resume(self) -> None:
        """Take work again."""
        self._is_closed = False
        self.wake()

    def _begin_anew(self) -> None:
        self._forget()
        self._is_stale = True
        self._quiet()

    def _lost(self) -> None:
        # The broker gives what we hold to others; what runs here still ends in an
        # outcome, and the first one of a job wins.
        self._forget()
        self._serving.lost()

    def _forget(self) -> None:
        self._declared.clear()
        self._open.clear()
        self._in_hand.clear()
        self._present.clear()
        self._bidders.clear()

    def _quiet(self) -> None:
        # Once for all that has come: deliveries, acks, slots, and time that passed.
        self._is_woken = False
        if self._is_stale or time.monotonic() >= self._look_at:
            self._is_stale = False
            self._change()
            is_soon = self._serving.starts.are_owed or self._is_unsettled()
            self._look_at = time.monotonic() + (SOON_S if is_soon else TICK_S)
        self._set_timer()

    def _set_timer(self) -> None:
        """Look again when it is due, whatever happens: two things change without an
        event, a credit settles and a prefill queue drains."""
        now = time.monotonic()
        if now < self._timer_at <= self._look_at + 0.001:
            return  # one is set, and looks when it fires
        self._timer_at = now if self._is_stale else max(now, self._look_at)
        self._link.call_later(self._timer_at - now, self._tick)

    def _tick(self) -> None:
        if time.monotonic() >= self._timer_at and self._link.is_up:
            self._quiet()

    def _is_unsettled(self) -> bool:
        now = time.monotonic()
        return any(
            now - one.opened_at < SETTLE_S + SOON_S for one in self._open.values()
        )

    def _change(self) -> None:
        if not self._link.is_up:
            self._serving.tend()
            return
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
        for credit in self._bidders.due(tuple(self._open), now):
            self._show(credit)
        for credit in tuple(self._present):
            if not self._serving.is_ready(credit.model):
                self._link.cancel(self._present.pop(credit))

    def _show(self, credit: Credit) -> None:
        """Be counted among those who ask there, then count them."""
        shown = queues.bidders_queue(credit.queue, credit.model)

        def count(*, is_new: bool) -> None:
            counted = partial(self._counted, credit, is_new=is_new)
            self._link.declare(shown, counted)

        def show(found: QueueCount | Exception) -> None:
            if isinstance(found, QueueCount):
                self._present[credit] = self._link.consume(
                    shown.name,
                    partial(self._hear_announcement, credit),
                    ready=lambda: count(is_new=True),
                )

        if credit in self._present:
            count(is_new=False)
        else:
            self._link.declare(shown, show)

    def _counted(
        self, credit: Credit, found: QueueCount | Exception, *, is_new: bool
    ) -> None:
        if not isinstance(found, QueueCount):
            return
        if is_new and found.consumers > 1:
            self._announce(credit, found.consumers)

        def seen(asking: QueueCount | Exception) -> None:
            # A worker of an earlier release is seen only while it could take some.
            if isinstance(asking, QueueCount):
                most = max(found.consumers, asking.consumers)
                self._bidders.saw(credit, most)
                self.wake()

        self._link.declare(queue_of(credit), seen)

    def _announce(self, credit: Credit, bidders: int) -> None:
        """Let the others know that they are not alone; each gets one of them."""
        name = queues.bidders_queue(credit.queue, credit.model).name
        for _ in range(bidders):
            self._link.send(Publication(key=name, body=b""))

    def _hear_announcement(self, credit: Credit, _message: BrokerMessage) -> None:
        self._bidders.doubt(credit)
        self._is_stale = True

    def _guard(self, now: float) -> None:
        """Ask the broker about credits nobody answered; start anew if it is deaf."""
        opened = {
            credit: one.opened_at + (QUORUM_S if is_background(credit) else 0.0)
            for credit, one in self._open.items()
            if not one.is_full
        }
        for credit in self._watchdog.doubted(opened, now):
            look = partial(self._on_looked, credit, self._open[credit].opened_at)
            self._link.declare(queue_of(credit), look)

    def _on_looked(
        self, credit: Credit, opened_at: float, found: QueueCount | Exception
    ) -> None:
        held = self._open.get(credit)
        if held is None or held.opened_at != opened_at:  # answered, or closed
            return
        if isinstance(found, QueueCount) and self._watchdog.is_deaf(
            credit, opened_at, waiting=found.waiting, consumers=found.consumers
        ):
            log.error("not_consuming", queue=queue_of(credit).name)
            self._link.reset()

    def _apply(self, change: CreditChange) -> None:
        taken = self._open.get(change.credit)
        if isinstance(change, OpenCredit) and not change.is_renewal:
            self._subscribe(change, time.monotonic())
            return
        if taken is None or taken.is_leaving:
            return
        # What is under way to it still comes, and is taken.
        taken.is_leaving = True
        if isinstance(change, OpenCredit):  # that nothing waits there stays known
            self._link.cancel(taken.tag, partial(self._renew, change, taken))
            return
        del self._open[change.credit]
        self._link.cancel(taken.tag, partial(self._give_back, taken))

    def _renew(self, change: OpenCredit, taken: _CreditConsumer) -> None:
        self._give_back(taken)
        if self._open.get(change.credit) is taken:  # else something came to it
            self._subscribe(change, taken.opened_at)

    def _give_back(self, taken: _CreditConsumer) -> None:
        while taken.pushed:
            taken.pushed.popleft().requeue()

    def _subscribe(self, change: OpenCredit, opened_at: float) -> None:
        credit = change.credit
        if not self._is_declared(credit):
            return
        taken = self._open[credit] = _CreditConsumer(
            priority=change.priority,
            opened_at=opened_at,
            bid_at=time.monotonic(),
            places=change.places,
        )
        taken.tag = self._link.consume(
            queue_of(credit).name,
            partial(self._delivered, credit, taken),
            places=change.places,
            priority=change.priority,
            is_background=is_background(credit),
        )

    def _is_declared(self, credit: Credit) -> bool:
        if credit not in self._declared:
            self._declared[credit] = False
            self._link.declare(queue_of(credit), partial(self._on_declared, credit))
        return self._declared[credit]

    def _on_declared(self, credit: Credit, found: QueueCount | Exception) -> None:
        if isinstance(found, QueueCount):
            self._declared[credit] = True
            self.wake()
            return
        if not isinstance(found, LinkLost):
            log.error("queue_refused", queue=queue_of(credit).name, error=repr(found))
        # The others go on; this one is asked for again after a while.
        self._link.call_later(REFUSED_S, lambda: self._ask_again(credit))

    def _ask_again(self, credit: Credit) -> None:
        if self._declared.get(credit) is False:
            del self._declared[credit]
            self.wake()

    def _delivered(
        self, credit: Credit, taken: _CreditConsumer, message: BrokerMessage
    ) -> None:
        is_open = self._open.get(credit) is taken
        if taken.places > 1:
            self._push(credit, taken, message)
            self._is_stale = self._is_stale or bool(taken.pushed)
            return
        if is_open:
            del self._open[credit]
        if is_open and not taken.is_leaving:
            # With its one message unacked the broker sends no second one.
            self._link.cancel(taken.tag)
        self._serving.take(self._delivery(credit, taken, message))
        self._is_stale = True

    def _push(
        self, credit: Credit, taken: _CreditConsumer, message: BrokerMessage
    ) -> None:
        """Begin what came to a consumer that stays open, or keep it for a moment."""
        taken.opened_at = now = time.monotonic()
        taken.pushed.append(self._delivery(credit, taken, message))
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
        self, credit: Credit, taken: _CreditConsumer, message: BrokerMessage
    ) -> BrokerDelivery:
        tag, in_hand = message.tag, self._in_hand.setdefault(credit, set())
        in_hand.add(tag)
        taken.unacked.add(tag)

        def settle(act: Callable[[BrokerMessage], None]) -> None:
            in_hand.discard(tag)
            taken.unacked.discard(tag)
            act(message)

        return BrokerDelivery(
            body=message.body,
            model=credit.model,
            redelivered=message.redelivered,
            ack=partial(settle, self._link.ack),
            requeue=partial(settle, partial(self._link.reject, requeue=True)),
            reject=partial(settle, partial(self._link.reject, requeue=False)),
        )
