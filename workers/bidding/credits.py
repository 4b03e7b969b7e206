"""When to ask the broker for one more request, and at which bid (pure).

A credit is one prefetch-1 consumer of one (queue, model, class). It opens when the
engine could start a request now and closes on delivery. Where nobody else asks there is
nothing to bid against: an interactive consumer then stays open for as many messages as
the engine has places, and those not yet acked are its credit. Background work gets what
interactive work leaves over: its credits open only while every interactive credit of
the model has stayed open long enough to show that nothing waits there. Batch requests
count as room for all others, since an engine lets them yield their slots.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from genie.contracts.inference import WorkClass

PREFILL_MOST_S = 0.05
"""With more prefill than this queued, a request starts sooner elsewhere."""

BID_MOST = 255
OCTAVE = 8
"""Points for each doubling of speed: 30 doublings, dither and load fit in 0..255."""

DITHER = OCTAVE // 2
"""Points of a bid that chance decides: among equal machines, all of it."""

EASE = 4
"""Points for an idle engine; half of them while most of its slots are free."""

OCTAVES_MOST = (BID_MOST - DITHER - EASE) / OCTAVE

REBID = 2 * OCTAVE
"""An open credit is opened anew only for a change larger than dither and load make."""

RENEW_S = 10.0
"""An interactive credit unanswered for this long draws its dither again, or the machine
that drew worst would stay last for as long as the others can serve all."""

COUNT_S = 10.0
"""How often the broker is asked how many workers ask for work on a queue. A second one
may wait that long for its share; a look costs two round trips."""

LEFT_FREE = 1
"""Slots of an engine with more than one that jobs never get, so that an interactive
request finds room; batch work fills them, and yields."""

RANKS = (WorkClass.INTERACTIVE, WorkClass.JOB, WorkClass.BATCH)
"""Who is asked for first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """What a consumer asks for."""

    queue: str
    model: str
    work_class: WorkClass


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditStatus:
    """An open credit; ``is_settled`` when it has stayed unanswered for a while.

    ``is_old`` when its bid was drawn `RENEW_S` ago. One of several ``places`` stays
    open for so many messages not yet acked.
    """

    priority: int
    is_settled: bool = False
    is_old: bool = False
    places: int = 1

    @property
    def stays_open(self) -> bool:
        """True when a delivery does not close it."""
        return self.places > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLoad:
    """A ready model: its slots, what it has in hand, and its bid for one more.

    ``yielding`` of the requests in flight give their slots to more urgent ones. An
    engine that is not yet ``measured`` reads one prompt alone.
    """

    model: str
    slots: int
    in_flight: int
    yielding: int = 0
    bid: int = 0
    prefill_queued_s: float = 0.0
    measured: bool = True

    @property
    def is_crowded(self) -> bool:
        """True while another prompt would be read sooner elsewhere."""
        return self.prefill_queued_s >= PREFILL_MOST_S

    @property
    def can_begin(self) -> bool:
        """True when an urgent request would start now."""
        return self.room > 0 and not self.is_crowded

    @property
    def free(self) -> int:
        """Slots nothing runs in."""
        return max(0, self.slots - self.in_flight)

    @property
    def room(self) -> int:
        """Slots that an urgent request can have, taken by one that yields or free."""
        return max(0, self.slots - self.in_flight + self.yielding)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseCredit:
    """Cancel the consumer of a credit."""

    credit: Credit


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCredit:
    """Subscribe with this consumer priority, for so many messages not yet acked.

    ``is_renewal``: it takes the place of an open one, and that nothing waits there is
    still known.
    """

    credit: Credit
    priority: int
    places: int = 1
    is_renewal: bool = False


CreditChange = CloseCredit | OpenCredit


@dataclass(slots=True)
class Bidders:
    """How many workers ask on each queue, as the broker said last (pure).

    >>> mine = Credit(queue="genie", model="m", work_class=WorkClass.INTERACTIVE)
    >>> bidders = Bidders()
    >>> bidders.due([mine], now=0.0) == (mine,)
    True
    >>> bidders.saw(mine, 1)
    >>> bidders.due([mine], now=9.0), bidders.are_alone(mine)
    ((), True)
    """

    _asked_at: dict[Credit, float] = field(default_factory=dict)
    _alone: set[Credit] = field(default_factory=set)

    def due(self, credits: Iterable[Credit], now: float) -> tuple[Credit, ...]:
        """The credits whose bidders are to be counted now: interactive ones, since a
        consumer of a background queue is a Raft command however long it stays."""
        due = tuple(
            credit
            for credit in credits
            if credit.work_class is WorkClass.INTERACTIVE
            and now - self._asked_at.get(credit, -math.inf) >= COUNT_S
        )
        self._asked_at.update(dict.fromkeys(due, now))
        return due

    def saw(self, credit: Credit, bidders: int) -> None:
        """The broker counts so many, this one among them."""
        (self._alone.add if bidders <= 1 else self._alone.discard)(credit)

    def are_alone(self, credit: Credit) -> bool:
        """True while nobody else is known to ask there."""
        return credit in self._alone

    def doubt(self, credit: Credit) -> None:
        """Somebody else may have come: count again."""
        self._asked_at.pop(credit, None)

    def crowded(self, model: str) -> None:
        """Its prompts queue up: bid for them one by one until the next count."""
        self._alone = {one for one in self._alone if one.model != model}

    def clear(self) -> None:
        """The connection is another one."""
        self._asked_at.clear()
        self._alone.clear()


def decide(
    loads: Iterable[ModelLoad],
    queues: Sequence[str],
    held: Mapping[Credit, CreditStatus],
    *,
    alone: Mapping[Credit, int] | None = None,
) -> tuple[CreditChange, ...]:
    """The changes that turn the open credits into the right ones, closes first.

    ``alone`` are the credits that nobody else bids on, with the messages begun of each.
    """
    alone = alone or {}
    wanted: dict[Credit, OpenCredit] = {}
    for load in loads:
        own = alone if load.measured else {}
        for credit in _wanted(load, queues, held, own):
            places = _places(load, held.get(credit), own.get(credit))
            wanted[credit] = OpenCredit(credit=credit, priority=load.bid, places=places)
    closes = [it for it, open_ in held.items() if _is_stale(open_, wanted.get(it))]
    opens = [change for it, change in wanted.items() if it not in held or it in closes]
    kept = [it for it in held if it in wanted and it not in closes]
    due = (wanted[it] for it in kept if _is_due(held[it], wanted[it]))
    return (
        *(CloseCredit(credit=credit) for credit in closes),
        *opens,
        *(replace(change, is_renewal=True) for change in due),
    )


def _places(load: ModelLoad, held: CreditStatus | None, begun: int | None) -> int:
    """For how many messages; ``begun`` of them run, None where others bid too.

    What runs will be done some time, so its places count as well.
    """
    if begun is None:
        return 1
    if held is not None and held.stays_open and not held.is_old:
        return held.places
    return max(1, load.room + begun)


def _wanted(
    load: ModelLoad,
    queues: Sequence[str],
    held: Mapping[Credit, CreditStatus],
    alone: Mapping[Credit, int],
) -> Iterator[Credit]:
    if load.is_crowded:
        return
    if load.room == 0:
        full = _credits(load.model, queues, WorkClass.INTERACTIVE)
        yield from (it for it in full if it in alone and _stays_open(held.get(it)))
        return
    kept = LEFT_FREE if load.slots > 1 else 0
    room = {
        WorkClass.INTERACTIVE: load.room,
        WorkClass.JOB: load.room - kept,
        WorkClass.BATCH: load.free,
    }
    for work_class in RANKS:
        if room[work_class] <= 0:
            continue  # who waits there could not be started: less urgent work may be
        asked = list(_credits(load.model, queues, work_class))
        yield from asked
        if not all(_is_quiet(held.get(credit), load.bid) for credit in asked):
            return


def _credits(
    model: str, queues: Sequence[str], work_class: WorkClass
) -> Iterator[Credit]:
    return (Credit(queue=name, model=model, work_class=work_class) for name in queues)


def _stays_open(held: CreditStatus | None) -> bool:
    return held is not None and held.stays_open


def _is_quiet(held: CreditStatus | None, bid: int) -> bool:
    """True when nothing waits there; a credit about to be opened anew cannot tell."""
    return held is not None and held.is_settled and not _is_off(held, bid)


def _is_stale(held: CreditStatus, wanted: OpenCredit | None) -> bool:
    if wanted is None or (held.stays_open and wanted.places == 1):
        return True
    return _is_off(held, wanted.priority)


def _is_due(held: CreditStatus, wanted: OpenCredit) -> bool:
    if held.places != wanted.places:
        return True
    # Background queues are quorum queues: a consumer opened there is a Raft command.
    is_drawn_anew = not held.stays_open and held.is_old
    return wanted.credit.work_class is WorkClass.INTERACTIVE and is_drawn_anew


def _is_off(held: CreditStatus, bid: int) -> bool:
    # Where nobody else bids it does not matter.
    return not held.stays_open and abs(bid - held.priority) > REBID


def bid(speed: float | None, *, in_flight: int, slots: int, dither: float) -> int:
    """How soon one more request would be served here, as a priority from 0 to 255.

    ``speed`` is the measured bytes/s of reading prompts, None before the first: an
    unmeasured engine bids highest, so that it gets measured. ``dither`` is random in
    [0, 1): equal machines share evenly, a twice faster one is never outbid.

    >>> bid(4000.0, in_flight=0, slots=4, dither=0.0)
    99
    >>> bid(8000.0, in_flight=3, slots=4, dither=0.0)
    103
    """
    if speed is None:
        return BID_MOST
    octaves = min(math.log2(max(1.0, speed)), OCTAVES_MOST)
    return math.floor(OCTAVE * octaves + DITHER * dither) + _ease(in_flight, slots)


def _ease(in_flight: int, slots: int) -> int:
    if in_flight == 0:
        return EASE
    return EASE // 2 if in_flight * 2 < slots else 0


WATCH_S = 10.0
"""How often the broker is asked, and how long a credit is open before it is doubted."""


@dataclass(slots=True)
class CreditWatchdog:
    """Remembers the last look; times are monotonic seconds."""

    _looked_at: float = 0.0
    _suspects: dict[Credit, float] = field(default_factory=dict)

    def doubted(self, opened: Mapping[Credit, float], now: float) -> tuple[Credit, ...]:
        """The credits to ask the broker about now; none between two looks."""
        if now - self._looked_at < WATCH_S:
            return ()
        self._looked_at = now
        return tuple(credit for credit, at in opened.items() if now - at >= WATCH_S)

    def is_deaf(
        self, credit: Credit, opened_at: float, *, waiting: int, consumers: int
    ) -> bool:
        """True when work waits for a credit that is open, at two looks in a row.

        Once may be a message under way; without any consumer there is no doubt.
        """
        seen_at = self._suspects.pop(credit, None)
        if waiting:
            self._suspects[credit] = opened_at
        return consumers == 0 or (waiting > 0 and seen_at == opened_at)
