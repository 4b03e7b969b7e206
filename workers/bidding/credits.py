"""When to ask the broker for one more request, and at which bid (pure).

A credit is one prefetch-1 consumer of one (queue, model, class). It opens when the
engine could start a request now and closes on delivery. Background work gets what
interactive work leaves over: its credits open only while every interactive credit of
the model has stayed open long enough to show that nothing waits there. Batch requests
count as room for all others, since an engine lets them yield their slots.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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

    ``is_old`` when its bid was drawn `RENEW_S` ago.
    """

    priority: int
    is_settled: bool = False
    is_old: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLoad:
    """A ready model: its slots, what it has in hand, and its bid for one more.

    ``yielding`` of the requests in flight give their slots to more urgent ones.
    """

    model: str
    slots: int
    in_flight: int
    yielding: int = 0
    bid: int = 0
    prefill_queued_s: float = 0.0

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
    """Subscribe for one request with this consumer priority."""

    credit: Credit
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewCredit:
    """Subscribe anew with this priority; that nothing waits there is still known."""

    credit: Credit
    priority: int


CreditChange = CloseCredit | OpenCredit | RenewCredit


def decide(
    loads: Iterable[ModelLoad],
    queues: Sequence[str],
    held: Mapping[Credit, CreditStatus],
    *,
    leave_free: int = 1,
) -> tuple[CreditChange, ...]:
    """The changes that turn the open credits into the right ones, closes first.

    ``leave_free`` slots of an engine with more than one are never given to jobs, so
    that an interactive request finds room; batch work fills them, and yields.
    """
    wanted: dict[Credit, int] = {}
    for load in loads:
        for credit in _wanted(load, queues, held, leave_free):
            wanted[credit] = load.bid
    closes = [
        credit for credit, open_ in held.items() if _is_stale(credit, open_, wanted)
    ]
    opens = [credit for credit in wanted if credit not in held or credit in closes]
    renews = [credit for credit in held if _is_due(credit, held) and credit in wanted]
    return (
        *(CloseCredit(credit=credit) for credit in closes),
        *(OpenCredit(credit=credit, priority=wanted[credit]) for credit in opens),
        *(
            RenewCredit(credit=credit, priority=wanted[credit])
            for credit in renews
            if credit not in closes
        ),
    )


def _wanted(
    load: ModelLoad,
    queues: Sequence[str],
    held: Mapping[Credit, CreditStatus],
    leave_free: int,
) -> Iterator[Credit]:
    if load.room == 0 or load.prefill_queued_s >= PREFILL_MOST_S:
        return
    kept = leave_free if load.slots > 1 else 0
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


def _is_quiet(held: CreditStatus | None, bid: int) -> bool:
    """True when nothing waits there; a credit about to be opened anew cannot tell."""
    return held is not None and held.is_settled and not _is_off(held, bid)


def _is_stale(credit: Credit, held: CreditStatus, wanted: Mapping[Credit, int]) -> bool:
    return credit not in wanted or _is_off(held, wanted[credit])


def _is_due(credit: Credit, held: Mapping[Credit, CreditStatus]) -> bool:
    # Background queues are quorum queues: a consumer opened there is a Raft command.
    return credit.work_class is WorkClass.INTERACTIVE and held[credit].is_old


def _is_off(held: CreditStatus, bid: int) -> bool:
    return abs(bid - held.priority) > REBID


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
