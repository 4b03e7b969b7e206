"""How long prompts still take to read, by example and by property."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genie.contracts.inference import FinishReason, Usage
from workers.bidding.credits import BID_MOST, PREFILL_MOST_S, ModelLoad, bid
from workers.bidding.load import DOUBT_S, InFlightRequests, PrefillQueue
from workers.engine.protocol import Finish


def learnt(size: int = 1000, seconds: float = 1.0) -> PrefillQueue:
    """A reading that has measured one prompt, ended at ``seconds``."""
    reading = PrefillQueue()
    reading.begin("first", size, now=0.0)
    reading.end("first", now=seconds)
    return reading


def test_before_anything_was_read_one_prompt_takes_for_ever() -> None:
    reading = PrefillQueue()
    assert reading.left_s(0.0) == 0.0
    reading.begin("a", 10, now=0.0)
    assert reading.left_s(100.0) == math.inf


def test_a_prompt_takes_as_long_as_its_size_says_less_what_has_passed() -> None:
    reading = learnt(size=1000, seconds=1.0)
    reading.begin("a", 500, now=5.0)
    assert reading.left_s(5.0) == pytest.approx(0.5)
    assert reading.left_s(5.2) == pytest.approx(0.3)
    assert reading.left_s(9.0) == 0.0


def test_prompts_are_read_one_after_the_other() -> None:
    reading = learnt()
    reading.begin("a", 1000, now=5.0)
    reading.begin("b", 1000, now=5.0)
    assert reading.left_s(5.5) == pytest.approx(1.5)
    reading.end("a", now=6.0)
    assert reading.left_s(6.0) == pytest.approx(1.0)


def test_a_prompt_that_ended_unread_teaches_nothing() -> None:
    reading = learnt()
    reading.begin("a", 10, now=5.0)
    reading.drop("a")
    reading.end("a", now=99.0)
    reading.begin("b", 1000, now=99.0)
    assert reading.left_s(99.0) == pytest.approx(1.0)


@given(st.floats(1e-6, 1e-2), st.lists(st.integers(1, 100_000), min_size=1))
def test_a_steady_engine_is_foreseen_exactly(per_byte: float, sizes: list[int]) -> None:
    reading = learnt(size=1000, seconds=1000 * per_byte)
    now = 1000 * per_byte
    for number, size in enumerate(sizes):
        reading.begin(str(number), size, now)
        assert reading.left_s(now) == pytest.approx(size * per_byte)
        now += size * per_byte
        reading.end(str(number), now)


steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "end", "drop"]),
        st.sampled_from("abc"),
        st.integers(0, 10_000),
        st.floats(0, 10),
    )
)


@given(steps)
def test_what_is_left_is_never_negative_and_nothing_when_nothing_is_in_hand(
    rows: list[tuple[str, str, int, float]],
) -> None:
    reading, now, here = PrefillQueue(), 0.0, set[str]()
    for act, request, size, passed in rows:
        now += passed
        if act == "begin" and request not in here:
            reading.begin(request, size, now)
            here.add(request)
        elif act == "end":
            reading.end(request, now)
            here.discard(request)
        elif act == "drop":
            reading.drop(request)
            here.discard(request)
        assert reading.left_s(now) >= 0.0
        if not here:
            assert reading.left_s(now) == 0.0


def test_a_speed_is_measured_and_an_old_one_doubted() -> None:
    reading = PrefillQueue()
    assert reading.speed(now=0.0) is None
    reading.begin("a", 1000, now=0.0)
    reading.end("a", now=2.0)
    speeds = [reading.speed(2.0 + DOUBT_S * share) for share in (0.0, 0.5, 1.0, 9.0)]
    assert speeds == [500.0, pytest.approx(707.1, abs=0.1), 1000.0, 8000.0]


def test_a_reading_with_pauses_counts_only_where_nothing_was_read() -> None:
    reading = PrefillQueue()
    reading.begin("a", 1000, now=0.0)
    reading.end("a", now=2.0, learns=False)
    assert reading.speed(now=2.0) == 500.0
    reading.begin("b", 1000, now=2.0)
    reading.end("b", now=9.0, learns=False)
    assert reading.speed(now=2.0) == 500.0


def test_what_took_no_time_is_fast_and_not_an_error() -> None:
    reading = PrefillQueue()
    reading.begin("a", 1000, now=1.0)
    reading.end("a", now=1.0)
    assert 1e6 < (reading.speed(now=1.0) or 0) < float("inf")


MODEL = "m"


def seen(loads: InFlightRequests, now: float = 0.0) -> ModelLoad:
    return loads.of(MODEL, slots=4, now=now, dither=0.0)


def finish(first_token_s: float = 1.0, tokens: int = 11) -> Finish:
    usage = Usage(prompt_tokens=1, completion_tokens=tokens)
    return Finish(
        id="a",
        reason=FinishReason.STOP,
        usage=usage,
        first_token_s=first_token_s,
        total_s=first_token_s + 1.0,
    )


def measured() -> InFlightRequests:
    """One request of 1000 bytes was read in a second and answered by second two."""
    loads = InFlightRequests()
    loads.begin(MODEL, "first", 1000, now=0.0)
    loads.heard(MODEL, "first", now=1.0)
    loads.finished(MODEL, "first", finish(), now=2.0)
    return loads


def test_a_model_without_requests_is_free_and_bids_to_be_measured() -> None:
    idle = ModelLoad(model=MODEL, slots=4, in_flight=0, bid=BID_MOST, measured=False)
    assert seen(InFlightRequests()) == idle


def test_a_request_is_counted_from_the_moment_it_is_given() -> None:
    loads = InFlightRequests()
    loads.begin(MODEL, "a", 100, now=0.0)
    assert seen(loads).in_flight == 1
    assert seen(loads).prefill_queued_s >= PREFILL_MOST_S
    loads.end(MODEL, "a")
    loads.end(MODEL, "a")
    assert seen(loads) == seen(InFlightRequests())


def test_what_yields_is_told_apart_and_its_pauses_are_no_speed() -> None:
    loads = measured()
    loads.begin(MODEL, "batch", 100, now=3.0, yields=True)
    assert (seen(loads, now=9.0).in_flight, seen(loads, now=9.0).yielding) == (1, 1)
    loads.begin(MODEL, "urgent", 100, now=3.0)
    loads.heard(MODEL, "batch", now=9.0)  # the urgent one would have been read first
    loads.end(MODEL, "batch")
    loads.end(MODEL, "urgent")
    assert seen(loads, now=1.0).bid == bid(1000.0, in_flight=0, slots=4, dither=0.0)


def test_batch_work_alone_tells_the_speed_too() -> None:
    loads = measured()
    before = seen(loads, now=2.0).bid
    loads.begin(MODEL, "batch", 8000, now=3.0, yields=True)
    loads.heard(MODEL, "batch", now=3.1)
    loads.end(MODEL, "batch")
    assert seen(loads, now=3.1).bid > before


def test_a_long_prompt_is_known_as_such_before_the_engine_has_looked_at_it() -> None:
    loads = measured()
    loads.begin(MODEL, "long", 2000, now=5.0)
    assert seen(loads, now=5.5).prefill_queued_s == 1.5
    assert loads.heard(MODEL, "long", now=7.0)
    assert seen(loads, now=7.0).prefill_queued_s == 0.0


def test_only_the_token_that_makes_room_for_another_prompt_is_news() -> None:
    loads = measured()
    loads.begin(MODEL, "short", 10, now=5.0)
    assert not loads.heard(MODEL, "short", now=5.01)
    loads.begin(MODEL, "long", 2000, now=6.0)
    assert loads.heard(MODEL, "long", now=6.2)
    assert not loads.heard(MODEL, "long", now=6.3)


def test_an_answer_that_came_in_one_piece_teaches_as_much() -> None:
    loads = InFlightRequests()
    loads.begin(MODEL, "a", 1000, now=0.0)
    loads.finished(MODEL, "a", finish(first_token_s=1.0), now=9.0)
    loads.begin(MODEL, "b", 1000, now=10.0)
    assert seen(loads, now=10.0).prefill_queued_s == 1.0


def test_the_bid_is_of_the_measured_speed_of_reading() -> None:
    loads = measured()
    before = bid(1000.0, in_flight=0, slots=4, dither=0.0)
    assert seen(loads, now=1.0).bid == before < BID_MOST
    loads.begin(MODEL, "a", 4000, now=5.0)
    loads.heard(MODEL, "a", now=5.1)
    loads.end(MODEL, "a")
    assert seen(loads, now=5.1).bid > before


def test_the_first_word_of_a_request_that_has_left_changes_nothing() -> None:
    loads = measured()
    loads.begin(MODEL, "a", 2000, now=5.0)
    loads.end(MODEL, "a")
    loads.heard(MODEL, "a", now=6.0)
    assert seen(loads, now=6.0) == seen(measured(), now=6.0)
