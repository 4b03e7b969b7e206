"""Admission and chunking, without a tensor in sight."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genie.contracts.inference import WorkClass
from workers.engine.scheduler import FAIR_TURN, Full, Scheduler, Sequence, Step


def sequence(
    name: str,
    *,
    prompt: int = 4,
    limit: int = 3,
    work_class: WorkClass = WorkClass.INTERACTIVE,
    deadline: float = 1e9,
) -> Sequence:
    return Sequence(
        id=name, work_class=work_class, prompt=prompt, limit=limit, deadline=deadline
    )


def advance(scheduler: Scheduler) -> tuple[Step, list[str]]:
    """One step as an engine does it; the ids that ended in it."""
    step = scheduler.plan()
    scheduler.done(step)
    ended = []
    whole = [chunk.sequence for chunk in step.chunks if chunk.completes]
    for one in (*step.decodes, *whole):
        one.produced += 1
        if one.produced >= one.limit:
            scheduler.remove(one)
            ended.append(one.id)
    return step, ended


def test_a_long_prompt_is_computed_in_chunks_under_the_budget() -> None:
    scheduler = Scheduler(slots=2, budget=10, waiting=4)
    scheduler.add(sequence("long", prompt=25))
    lengths = []
    while True:
        step, _ = advance(scheduler)
        if step.decodes:
            break
        lengths += [chunk.length for chunk in step.chunks]
    assert lengths == [10, 10, 5]


def test_decoding_goes_on_while_a_prompt_is_computed() -> None:
    scheduler = Scheduler(slots=2, budget=10, waiting=4)
    scheduler.add(sequence("running", prompt=2, limit=50))
    advance(scheduler)
    scheduler.add(sequence("long", prompt=100))
    for _ in range(5):
        step, _ = advance(scheduler)
        assert [one.id for one in step.decodes] == ["running"]
        assert step.tokens == 10


def test_prefill_moves_even_when_decoding_takes_the_whole_budget() -> None:
    scheduler = Scheduler(slots=4, budget=1, waiting=4)
    for index in range(3):
        scheduler.add(sequence(f"r{index}", prompt=1, limit=90))
    for _ in range(6):
        advance(scheduler)
    late = sequence("late", prompt=2, limit=1)
    scheduler.add(late)
    for _ in range(2):
        advance(scheduler)
    assert late.computed == 2


def test_the_urgent_are_admitted_first() -> None:
    scheduler = Scheduler(slots=1, budget=100, waiting=9)
    for rank in (WorkClass.BATCH, WorkClass.JOB, WorkClass.INTERACTIVE):
        scheduler.add(sequence(rank.value, limit=1, work_class=rank))
    ended = [advance(scheduler)[1] for _ in range(3)]
    assert ended == [["interactive"], ["job"], ["batch"]]


def test_the_lowest_slot_is_given_first() -> None:
    scheduler = Scheduler(slots=3, budget=100, waiting=9)
    held = [sequence(name, limit=9) for name in "abc"]
    for one in held:
        scheduler.add(one)
    advance(scheduler)
    assert [one.slot for one in held] == [0, 1, 2]
    scheduler.remove(held[2])
    scheduler.remove(held[0])
    scheduler.add(sequence("d", limit=9))
    advance(scheduler)
    known = scheduler.get("d")
    assert known is not None
    assert known.slot == 0


def test_the_waiting_room_is_bounded() -> None:
    scheduler = Scheduler(slots=1, budget=8, waiting=2)
    for name in "abc":
        scheduler.add(sequence(name))
    with pytest.raises(Full):
        scheduler.add(sequence("d"))
    assert scheduler.get("d") is None


def test_an_id_in_flight_is_not_taken_twice() -> None:
    scheduler = Scheduler(slots=1, budget=8, waiting=2)
    scheduler.add(sequence("a"))
    with pytest.raises(ValueError, match="a is already in flight"):
        scheduler.add(sequence("a"))


def test_no_slots_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Scheduler(slots=0, budget=8, waiting=2)


def test_overdue_requests_are_found_waiting_and_running() -> None:
    scheduler = Scheduler(slots=1, budget=8, waiting=2)
    scheduler.add(sequence("a", deadline=1.0))
    scheduler.add(sequence("b", deadline=2.0))
    scheduler.plan()
    assert {one.id for one in scheduler.overdue(1.5)} == {"a"}
    assert {one.id for one in scheduler.overdue(2.0)} == {"a", "b"}


def test_a_batch_request_is_served_while_interactive_ones_keep_coming() -> None:
    scheduler = Scheduler(slots=1, budget=100, waiting=9)
    scheduler.add(sequence("busy", limit=1))
    scheduler.add(sequence("batch", limit=1, work_class=WorkClass.BATCH))
    ended: list[str] = []
    for turn in range(2 * FAIR_TURN):
        scheduler.add(sequence(f"i{turn}", limit=1))
        ended += advance(scheduler)[1]
    assert "batch" in ended


COMMANDS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.integers(1, 40),
            st.integers(1, 6),
            st.sampled_from(list(WorkClass)),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("step")),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(COMMANDS, st.integers(1, 4), st.integers(1, 24), st.integers(0, 8))
def test_every_request_ends_once_and_no_slot_is_held_twice(
    commands: list[tuple[object, ...]], slots: int, budget: int, waiting: int
) -> None:
    scheduler = Scheduler(slots=slots, budget=budget, waiting=waiting)
    taken: list[Sequence] = []
    ended: list[str] = []
    for command in commands:
        match command:
            case ("add", int(prompt), int(limit), WorkClass() as rank):
                one = sequence(
                    f"r{len(taken)}", prompt=prompt, limit=limit, work_class=rank
                )
                try:
                    scheduler.add(one)
                except Full:
                    assert scheduler.active + scheduler.waiting >= slots + waiting
                else:
                    taken.append(one)
            case ("cancel", int(index)) if index < len(taken):
                known = scheduler.get(taken[index].id)
                if known is not None:
                    scheduler.remove(known)
                    ended.append(known.id)
            case ("step",):
                ended += checked_step(scheduler)
    work = sum(one.prompt + one.limit for one in taken)
    for _ in range(work + 1):
        ended += checked_step(scheduler)
    assert sorted(ended) == sorted(one.id for one in taken)
    assert (scheduler.active, scheduler.waiting, scheduler.cached) == (0, 0, 0)


def checked_step(scheduler: Scheduler) -> list[str]:
    step, ended = advance(scheduler)
    parts = [*step.decodes, *(chunk.sequence for chunk in step.chunks)]
    assert len({one.id for one in parts}) == len(parts)
    assert step.tokens <= scheduler.budget
    running = [one.slot for one in scheduler._running.values()]
    assert len(set(running)) == len(running)
    assert all(0 <= slot < scheduler.slots for slot in running)
    assert sorted(running + scheduler._free) == list(range(scheduler.slots))
    return ended
