"""The credit policy, by table and by property."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genie.contracts.inference import WorkClass
from workers.bidding.credits import (
    BID_MOST,
    COUNT_S,
    DITHER,
    REBID,
    WATCH_S,
    Bidders,
    CloseCredit,
    Credit,
    CreditStatus,
    CreditWatchdog,
    ModelLoad,
    OpenCredit,
    bid,
    decide,
)

FAST, J, B = WorkClass.INTERACTIVE, WorkClass.JOB, WorkClass.BATCH


def credit(work_class: WorkClass, queue: str = "genie", model: str = "m") -> Credit:
    return Credit(queue=queue, model=model, work_class=work_class)


def held(*classes: WorkClass, settled: bool = True) -> dict[Credit, CreditStatus]:
    return {credit(it): CreditStatus(priority=10, is_settled=settled) for it in classes}


def load(
    *, slots: int = 4, in_flight: int = 0, yielding: int = 0, prefill_s: float = 0.0
) -> ModelLoad:
    return ModelLoad(
        model="m",
        slots=slots,
        in_flight=in_flight,
        yielding=yielding,
        bid=10,
        prefill_queued_s=prefill_s,
    )


@pytest.mark.parametrize(
    ("state", "open_", "opened", "closed"),
    [
        pytest.param(load(), {}, {FAST}, set(), id="interactive first"),
        pytest.param(load(), held(FAST, settled=False), set(), set(), id="not settled"),
        pytest.param(load(), held(FAST), {J}, set(), id="job when nothing waits"),
        pytest.param(load(), held(FAST, J), {B}, set(), id="batch comes last"),
        pytest.param(load(), held(FAST, J, B), set(), set(), id="nothing to do"),
        pytest.param(load(in_flight=3), held(FAST, J), {B}, {J}, id="keep one"),
        pytest.param(
            load(in_flight=3), held(FAST, settled=False), set(), set(), id="not yet"
        ),
        pytest.param(
            load(in_flight=4, yielding=4), {}, {FAST}, set(), id="batch yields"
        ),
        pytest.param(
            load(in_flight=4, yielding=4), held(FAST, J, B), set(), {B}, id="all batch"
        ),
        pytest.param(
            load(in_flight=4, yielding=1), held(FAST, J), set(), {J}, id="one yields"
        ),
        pytest.param(
            load(in_flight=8, yielding=4), held(FAST), set(), {FAST}, id="all yielded"
        ),
        pytest.param(load(in_flight=4), held(FAST, J), set(), {FAST, J}, id="full"),
        pytest.param(load(in_flight=9), held(FAST), set(), {FAST}, id="more than full"),
        pytest.param(load(slots=1), held(FAST), {J}, set(), id="one slot serves all"),
        pytest.param(load(slots=0), held(FAST), set(), {FAST}, id="no slot at all"),
        pytest.param(
            load(prefill_s=0.05), held(FAST, J), set(), {FAST, J}, id="prefill"
        ),
        pytest.param(
            load(prefill_s=0.049), held(FAST), {J}, set(), id="little prefill"
        ),
    ],
)
def test_credits_follow_what_the_engine_can_start(
    state: ModelLoad,
    open_: dict[Credit, CreditStatus],
    opened: set[WorkClass],
    closed: set[WorkClass],
) -> None:
    changes = decide([state], ["genie"], open_)
    assert {c.credit.work_class for c in changes if isinstance(c, OpenCredit)} == opened
    assert {
        c.credit.work_class for c in changes if isinstance(c, CloseCredit)
    } == closed


def test_a_model_that_is_gone_loses_its_credits() -> None:
    assert decide([], ["genie"], held(FAST)) == (CloseCredit(credit=credit(FAST)),)


def test_background_work_waits_until_no_queue_has_interactive_work() -> None:
    open_ = {
        credit(FAST, "org.acme"): CreditStatus(priority=10, is_settled=False),
        credit(FAST, "genie"): CreditStatus(priority=10, is_settled=True),
    }
    assert decide([load()], ["org.acme", "genie"], open_) == ()


def test_an_open_credit_is_opened_anew_only_for_a_much_better_bid() -> None:
    same = ModelLoad(model="m", slots=4, in_flight=0, bid=10 + REBID)
    better = ModelLoad(model="m", slots=4, in_flight=0, bid=11 + REBID)
    open_ = held(FAST, settled=False)
    assert decide([same], ["genie"], open_) == ()
    assert decide([better], ["genie"], open_) == (
        CloseCredit(credit=credit(FAST)),
        OpenCredit(credit=credit(FAST), priority=11 + REBID),
    )


def test_what_is_opened_anew_must_settle_again_before_background_work() -> None:
    open_ = {credit(FAST): CreditStatus(priority=50, is_settled=True)}
    assert decide([load()], ["genie"], open_) == (
        CloseCredit(credit=credit(FAST)),
        OpenCredit(credit=credit(FAST), priority=10),
    )


def test_an_old_bid_is_drawn_anew_for_interactive_work_alone() -> None:
    open_ = {
        credit(it): CreditStatus(priority=10, is_settled=True, is_old=True)
        for it in (FAST, J)
    }
    assert decide([load()], ["genie"], open_) == (
        OpenCredit(credit=credit(B), priority=10),
        OpenCredit(credit=credit(FAST), priority=10, is_renewal=True),
    )


def test_an_old_credit_that_is_not_wanted_any_more_is_only_closed() -> None:
    open_ = {credit(FAST): CreditStatus(priority=10, is_settled=True, is_old=True)}
    full = load(in_flight=4)
    assert decide([full], ["genie"], open_) == (CloseCredit(credit=credit(FAST)),)


speeds = st.one_of(st.none(), st.floats(min_value=0, max_value=1e9))


@given(speeds, st.integers(0, 600), st.integers(0, 512), st.floats(0, 0.999))
def test_a_bid_is_a_priority_the_broker_takes(
    speed: float | None, in_flight: int, slots: int, dither: float
) -> None:
    value = bid(speed, in_flight=in_flight, slots=slots, dither=dither)
    assert 0 <= value <= BID_MOST


@given(st.floats(1, 1e7), st.floats(0, 0.999), st.integers(0, 8), st.integers(0, 8))
def test_an_engine_twice_as_fast_is_never_outbid_whatever_runs_on_it(
    speed: float, dither: float, mine: int, theirs: int
) -> None:
    fast = bid(2 * speed, in_flight=mine, slots=8, dither=0.0)
    slow = bid(speed, in_flight=theirs, slots=8, dither=dither)
    assert fast >= slow


@given(st.floats(1, 1e7), st.integers(0, 8))
def test_chance_alone_orders_equal_engines(speed: float, in_flight: int) -> None:
    drawn = {
        bid(speed, in_flight=in_flight, slots=8, dither=number / 16)
        for number in range(16)
    }
    assert len(drawn) >= DITHER


loads = st.lists(
    st.builds(
        lambda yielding, in_flight, **rest: ModelLoad(
            in_flight=in_flight + yielding, yielding=yielding, **rest
        ),
        model=st.sampled_from(["a", "b", "c"]),
        slots=st.integers(0, 8),
        in_flight=st.integers(0, 10),
        yielding=st.integers(0, 4),
        bid=st.integers(0, BID_MOST),
        prefill_queued_s=st.sampled_from([0.0, 0.01, 0.05, 3.0]),
    ),
    unique_by=lambda it: it.model,
)
opens = st.dictionaries(
    st.builds(
        Credit,
        queue=st.sampled_from(["genie", "org.acme", "org.gone"]),
        model=st.sampled_from(["a", "b", "c", "gone"]),
        work_class=st.sampled_from(list(WorkClass)),
    ),
    st.builds(
        CreditStatus,
        priority=st.integers(0, BID_MOST),
        is_settled=st.booleans(),
        is_old=st.booleans(),
    ),
)


@given(loads, opens)
def test_what_is_open_after_a_decision_is_never_more_than_can_start(
    loads: list[ModelLoad], open_: dict[Credit, CreditStatus]
) -> None:
    after = applied(loads, open_)
    by_model = {it.model: it for it in loads}
    for one in after:
        state = by_model[one.model]
        assert state.room > 0
        assert one.queue in QUEUES
        if one.work_class is B:
            assert state.free > 0
        if one.work_class is J and state.slots > 1:
            assert state.room > 1


@given(loads, opens)
def test_deciding_again_on_the_same_state_changes_no_credit(
    loads: list[ModelLoad], open_: dict[Credit, CreditStatus]
) -> None:
    after = applied(loads, open_)
    assert decide(loads, QUEUES, after) == ()


QUEUES = ("genie", "org.acme")


def applied(
    loads: list[ModelLoad], open_: dict[Credit, CreditStatus]
) -> dict[Credit, CreditStatus]:
    after = dict(open_)
    for change in decide(loads, QUEUES, open_):
        if isinstance(change, CloseCredit):
            del after[change.credit]
            continue
        settled = change.is_renewal and after.pop(change.credit).is_settled
        assert change.credit not in after
        after[change.credit] = CreditStatus(
            priority=change.priority, is_settled=settled
        )
    return after


def open_for(places: int, *, is_old: bool = False) -> dict[Credit, CreditStatus]:
    one = CreditStatus(priority=10, is_settled=True, places=places, is_old=is_old)
    return {credit(FAST): one}


ALONE = credit(FAST)


@pytest.mark.parametrize(
    ("state", "open_", "begun", "changes"),
    [
        pytest.param(
            load(in_flight=1),
            {},
            0,
            (OpenCredit(credit=ALONE, priority=10, places=3),),
            id="it opens for the free places",
        ),
        pytest.param(
            load(),
            open_for(1),
            0,
            (OpenCredit(credit=ALONE, priority=10, places=4, is_renewal=True),),
            id="a bid becomes a consumer that stays",
        ),
        pytest.param(load(in_flight=4), open_for(4), 4, (), id="full, it stays"),
        pytest.param(
            load(prefill_s=0.05),
            open_for(4),
            0,
            (CloseCredit(credit=ALONE),),
            id="prompts queue up",
        ),
        pytest.param(
            load(),
            open_for(4),
            None,
            (CloseCredit(credit=ALONE), OpenCredit(credit=ALONE, priority=10)),
            id="another bids too",
        ),
        pytest.param(
            load(in_flight=4),
            open_for(4),
            None,
            (CloseCredit(credit=ALONE),),
            id="and full",
        ),
        pytest.param(
            load(slots=8, in_flight=2), open_for(4), 2, (), id="a new size can wait"
        ),
        pytest.param(
            load(slots=8, in_flight=2),
            open_for(4, is_old=True),
            2,
            (OpenCredit(credit=ALONE, priority=10, places=8, is_renewal=True),),
            id="for a while",
        ),
        pytest.param(
            load(slots=1),
            {},
            0,
            (OpenCredit(credit=ALONE, priority=10),),
            id="with one place a bid will do",
        ),
    ],
)
def test_a_consumer_stays_open_while_nobody_else_bids(
    state: ModelLoad,
    open_: dict[Credit, CreditStatus],
    begun: int | None,
    changes: tuple[object],
) -> None:
    alone = {} if begun is None else {ALONE: begun}
    decided = decide([state], ["genie"], open_, alone=alone)
    assert tuple(it for it in decided if it.credit == ALONE) == changes


def test_an_engine_that_was_never_measured_bids_though_nobody_else_does() -> None:
    cold = ModelLoad(model="m", slots=4, in_flight=0, measured=False)
    (opened,) = decide([cold], ["genie"], {}, alone={ALONE: 0})
    assert opened == OpenCredit(credit=ALONE, priority=0)


def test_bidders_are_counted_once_in_a_while_or_when_one_is_told() -> None:
    bidders = Bidders()
    asked = [credit(FAST), credit(J)]
    assert bidders.due(asked, now=0.0) == (ALONE,)  # background credits are never
    assert bidders.due(asked, now=COUNT_S - 0.1) == ()
    assert bidders.due(asked, now=COUNT_S) == (ALONE,)
    bidders.doubt(ALONE)
    assert bidders.due(asked, now=COUNT_S + 0.1) == (ALONE,)


def test_a_model_whose_prompts_queue_up_is_bid_for_until_the_next_count() -> None:
    bidders = Bidders()
    bidders.saw(ALONE, 1)
    assert bidders.are_alone(ALONE)
    bidders.crowded("m")
    assert not bidders.are_alone(ALONE)
    bidders.saw(ALONE, 1)
    bidders.saw(ALONE, 2)
    assert not bidders.are_alone(ALONE)


CREDIT = Credit(queue="genie", model="m", work_class=WorkClass.INTERACTIVE)


def is_deaf(
    dog: CreditWatchdog, waiting: int, consumers: int = 1, opened_at: float = 0.0
) -> bool:
    return dog.is_deaf(CREDIT, opened_at, waiting=waiting, consumers=consumers)


def test_only_a_credit_that_is_open_for_long_is_doubted_and_not_all_the_time() -> None:
    dog = CreditWatchdog()
    assert dog.doubted({CREDIT: 95.0}, 100.0) == ()
    assert dog.doubted({CREDIT: 95.0}, 101.0) == ()
    later = 100.0 + WATCH_S
    assert dog.doubted({CREDIT: 95.0}, later) == (CREDIT,)
    assert dog.doubted({CREDIT: 95.0}, later + WATCH_S - 1) == ()


def test_a_queue_without_a_consumer_is_not_ours_any_more() -> None:
    assert is_deaf(CreditWatchdog(), 0, consumers=0)


def test_work_that_waits_at_two_looks_in_a_row_is_not_coming() -> None:
    dog = CreditWatchdog()
    assert [is_deaf(dog, n) for n in (1, 0, 1, 1)] == [False, False, False, True]


def test_a_credit_that_was_answered_in_between_is_another_one() -> None:
    dog = CreditWatchdog()
    assert not is_deaf(dog, 1, opened_at=0.0)
    assert not is_deaf(dog, 1, opened_at=5.0)
