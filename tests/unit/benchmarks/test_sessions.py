"""Conversations in the simulator: what is held, who is asked, and who does not wait."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulator import runs, sessions, step_times
from benchmarks.simulator.arrivals import Arrival
from benchmarks.simulator.broker import Consumer, Queue
from benchmarks.simulator.clock import Clock
from benchmarks.simulator.policies import Credits, Make
from benchmarks.simulator.sessions import Hashed, Held, Hinted, Remembering, Turns
from benchmarks.simulator.worker import Request, Room

ROOM = Room(slots=4, budget=2048)
GPUS = step_times.load(None)


def turn(*blocks: int, at: float = 0.0) -> Arrival:
    return Arrival(at=at, prompt=512 * len(blocks), answer=4, blocks=blocks)


def test_a_turn_goes_on_from_the_one_whose_prompt_it_repeats() -> None:
    turns = Turns()
    first, other, second = (
        Request(arrival=turn(*blocks), number=number)
        for number, blocks in enumerate([(0, 1, 2), (0, 7, 8), (0, 1, 3, 4)])
    )
    assert turns.before(first) == (None, 0)
    assert turns.before(other) == (None, 0)
    assert turns.before(second) == (first, 1024)


def test_what_all_begin_with_makes_no_conversation() -> None:
    turns = Turns()
    turns.before(Request(arrival=turn(0)))
    assert turns.before(Request(arrival=turn(0, 5))) == (None, 0)


def test_an_engine_holds_the_last_prompts_and_a_next_turn_takes_its_place() -> None:
    held = Held(2)
    assert [held.take(blocks) for blocks in [(0, 1), (0, 1, 2), (0, 9)]] == [0, 2, 1]
    assert held.take((0, 1, 2, 3)) == 3
    assert held.take((5,)) == 0  # in the place of (0, 9)
    assert held.take((0, 9)) == 1


def test_a_request_nobody_took_in_time_goes_where_it_was_to_go_then() -> None:
    clock, late, taken = Clock(), list[float](), list[Request]()
    queue = Queue(clock)
    queue.publish(Request(arrival=turn(0)), 0.5, lambda _: late.append(clock.now))
    clock.after(1.0, lambda: queue.consume(Consumer(deliver=taken.append)))
    clock.run()
    assert late == [pytest.approx(0.5, abs=0.01)]
    assert not taken


def test_a_request_taken_in_time_does_not_come_twice() -> None:
    clock, late, taken = Clock(), list[Request](), list[Request]()
    queue = Queue(clock)
    queue.publish(Request(arrival=turn(0)), 0.5, late.append)
    queue.consume(Consumer(deliver=taken.append))
    clock.run()
    assert (late, len(taken)) == ([], 1)


HINTS: dict[str, Make] = {
    "credits": Credits,
    "hashed": Hashed,
    "hinted": partial(Hinted, worth=1.0, read_s=64e-6),
}


@pytest.mark.parametrize("name", HINTS)
def test_every_turn_is_answered_and_some_reading_saved(name: str) -> None:
    asked = sessions.drawn(300, seed=1)
    fleet = [GPUS["a100"], GPUS["h100"]]
    kind = partial(Remembering, prompts=64)
    result = runs.run(fleet, ROOM, asked, HINTS[name], 0, kind)
    assert result.ended == len(asked)
    assert 0 < result.saved < 1


def test_a_hint_brings_a_conversation_back_to_where_it_is_held() -> None:
    asked = sessions.drawn(300, seed=1)
    fleet, kind = [GPUS["a100"]] * 4, partial(Remembering, prompts=512)
    plain, hinted = (
        runs.run(fleet, ROOM, asked, HINTS[name], 0, kind).saved
        for name in ("credits", "hinted")
    )
    assert hinted > 1.2 * plain


@given(st.integers(1, 8), st.integers(0, 99))
def test_a_trace_laid_over_itself_shares_no_conversation_between_layers(
    layers: int, seed: int
) -> None:
    trace = sessions.drawn(200, seed=2)
    span = trace[-1].at - trace[0].at
    rate = layers * len(trace) / span
    found = sessions.overlaid(trace, rate, 150, seed)
    assert [one.at for one in found] == sorted(one.at for one in found)
    times: dict[int, int] = {}
    for one in found:
        for block in set(one.blocks[sessions.COMMON :]):
            times[block] = times.get(block, 0) + 1
    recorded: dict[int, int] = {}
    for one in trace:
        for block in set(one.blocks[sessions.COMMON :]):
            recorded[block] = recorded.get(block, 0) + 1
    assert all(count <= recorded[key % 10_000_000] for key, count in times.items())
