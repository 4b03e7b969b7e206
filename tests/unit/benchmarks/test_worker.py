"""A simulated engine: what it computes in which pass, and what it says of itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulator.arrivals import Arrival
from benchmarks.simulator.clock import Clock
from benchmarks.simulator.step_times import StepTimes
from benchmarks.simulator.worker import Request, Room, Worker

FLAT = StepTimes([(1, 1.0), (1000, 1.0)])


def made(slots: int = 2, budget: int = 100) -> tuple[Clock, Worker]:
    clock = Clock()
    return clock, Worker(clock, "w", FLAT, Room(slots=slots, budget=budget))


def asked(prompt: int = 10, answer: int = 3, number: int = 0) -> Request:
    return Request(arrival=Arrival(at=0.0, prompt=prompt, answer=answer), number=number)


def test_the_pass_that_ends_a_prompt_yields_the_first_token() -> None:
    clock, worker = made()
    request = asked(prompt=250, answer=3)
    worker.submit(request)
    clock.run()
    assert (request.first_at, request.done_at) == (3.0, 5.0)
    assert worker.in_flight == 0


def test_a_request_beyond_the_slots_waits_for_one() -> None:
    clock, worker = made(slots=1)
    one, other = asked(answer=4), asked(answer=1, number=1)
    worker.submit(one)
    worker.submit(other)
    clock.run()
    assert one.done_at == 4.0
    assert (other.first_at, other.done_at) == (5.0, 5.0)


def test_one_that_comes_in_the_middle_of_a_stride_joins_at_the_next_pass() -> None:
    clock, worker = made()
    one, other = asked(answer=100), asked(answer=2, number=1)
    worker.submit(one)
    clock.at(10.5, lambda: worker.submit(other))
    clock.run()
    assert (other.first_at, other.done_at) == (12.0, 13.0)
    assert one.done_at == 100.0


arrived = st.lists(
    st.tuples(st.floats(0, 50), st.integers(1, 400), st.integers(1, 40)), max_size=30
)


@settings(max_examples=50)
@given(arrived, st.integers(1, 5))
def test_every_request_ends_once_and_a_stride_changes_no_time(
    rows: list[tuple[float, int, int]], slots: int
) -> None:
    clock, worker = made(slots=slots)
    ended: list[Request] = []
    worker.on_done.append(lambda _worker, request: ended.append(request))
    for number, (at, prompt, answer) in enumerate(rows):
        arrival = Arrival(at=at, prompt=prompt, answer=answer)
        request = Request(arrival=arrival, number=number)
        clock.at(at, lambda request=request: worker.submit(request))  # type: ignore[misc]
    clock.run()
    assert len(ended) == len(set(ended)) == len(rows)
    for one in ended:
        assert one.done_at - one.first_at == pytest.approx(one.arrival.answer - 1)
        passes = -(-one.arrival.prompt // (100 - slots + 1))
        assert one.ttft_s >= min(passes, -(-one.arrival.prompt // 100)) - 1e-9


@given(st.integers(1, 500), st.integers(1, 50))
def test_an_idle_worker_is_foreseen_exactly(prompt: int, answer: int) -> None:
    clock, worker = made()
    request = asked(prompt=prompt, answer=answer)
    foreseen = worker.expected_ttft_s(request)
    worker.submit(request)
    clock.run()
    assert request.first_at == pytest.approx(foreseen)
