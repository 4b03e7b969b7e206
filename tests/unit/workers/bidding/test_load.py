"""How long prompts still take to read, by example and by property."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.bidding.load import DOUBT_S, PrefillQueue


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
