"""Admission and chunking, without a tensor in sight."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genie.contracts.inference import WorkClass
from workers.engine.child.scheduler import (
    FAIR_TURN,
    ForwardPass,
    Scheduler,
    Sequence,
    WaitingQueueFull,
)


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


def advance(scheduler: Scheduler) -> tuple[ForwardPass, list[str]]:
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
    with pytest.raises(WaitingQueueFull):
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


def filled(*classes: WorkClass, limit: int = 9) -> Scheduler:
    """A scheduler whose every slot is taken and decodes."""
    scheduler = Scheduler(slots=len(classes), budget=100, waiting=9)
    for index, work_class in enumerate(classes):
        one = sequence(f"r{index}", limit=limit, work_class=work_class)
        one.can_yield = work_class is WorkClass.BATCH
        scheduler.add(one)
        advance(scheduler)
    return scheduler


def test_a_batch_request_gives_its_slot_to_an_urgent_one_and_goes_on_later() -> None:
    scheduler = filled(WorkClass.BATCH)
    batch = scheduler.get("r0")
    assert batch is not None
    advance(scheduler)
    said = batch.produced
    scheduler.add(sequence("urgent", limit=2))
    step, _ = advance(scheduler)
    assert [chunk.sequence.id for chunk in step.chunks] == ["urgent"]
    assert (batch.slot, batch.computed) == (-1, 0)
    advance(scheduler)
    step, _ = advance(scheduler)
    # What it had said is computed again, as prompt; its next token is its own next.
    assert [(it.sequence.id, it.length) for it in step.chunks] == [("r0", 4 + said)]
    assert batch.produced == said + 1


def test_whoever_has_computed_least_yields() -> None:
    scheduler = filled(WorkClass.BATCH, WorkClass.BATCH, WorkClass.BATCH)
    scheduler.add(sequence("urgent", work_class=WorkClass.JOB))
    advance(scheduler)
    assert [one.slot < 0 for one in map(scheduler.get, ("r0", "r1", "r2")) if one] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("running", [WorkClass.INTERACTIVE, WorkClass.JOB])
def test_only_batch_requests_yield(running: WorkClass) -> None:
    scheduler = filled(running)
    scheduler.add(sequence("urgent"))
    step, _ = advance(scheduler)
    assert [one.id for one in step.decodes] == ["r0"]


def test_a_batch_request_does_not_yield_to_its_like() -> None:
    scheduler = filled(WorkClass.BATCH)
    scheduler.add(sequence("other", work_class=WorkClass.BATCH))
    step, _ = advance(scheduler)
    assert [one.id for one in step.decodes] == ["r0"]


def test_batch_requests_end_while_urgent_ones_never_pause() -> None:
    scheduler = filled(WorkClass.BATCH, WorkClass.BATCH, limit=20)
    ended: list[str] = []
    for turn in range(400):
        if scheduler.waiting < 5:
            scheduler.add(sequence(f"i{turn}", limit=1))
        ended += advance(scheduler)[1]
    assert {"r0", "r1"} <= set(ended)


COMMANDS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.integers(1, 60),
            st.integers(1, 6),
            st.sampled_from(list(WorkClass)),
            st.sampled_from(["acme", "globex"]),
            # Two families of prompts that part at some token: most begin alike.
            st.integers(0, 60),
            # Seconds it may take.
            st.integers(1, 40),
        ),
        st.tuples(st.just("pass"), st.integers(1, 20)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("fail"), st.integers(0, 30)),
        st.tuples(st.just("step")),
    ),
    max_size=60,
)


class Rig:
    """A scheduler beside a cache of labels instead of tensors: what holds what."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.cache: list[list[tuple[str, int]]] = [[] for _ in range(scheduler.slots)]
        self.taken: list[Sequence] = []
        self.ended: list[str] = []
        self.computed = self.reused = 0
        self.now = 0.0
        self.patience: dict[str, int] = {}

    def add(self, one: Sequence) -> None:
        # Every eighth admission takes the oldest: so many admissions may pass it by.
        turns = FAIR_TURN * (self.scheduler.waiting + 1)
        self.patience[one.id] = self._admissions + turns
        try:
            self.scheduler.add(one)
        except WaitingQueueFull:
            held = self.scheduler.active + self.scheduler.waiting
            assert held >= self.scheduler.slots + self.scheduler.bound
        else:
            self.taken.append(one)

    def end(self, index: int, *, keep: bool) -> None:
        known = index < len(self.taken) and self.scheduler.get(self.taken[index].id)
        if known:
            self._remove(known, keep=keep)

    def wait(self, seconds: int) -> None:
        """Time passes; who is overdue ends, as an engine ends them."""
        self.now += seconds
        late = self.scheduler.overdue(self.now)
        for one in late:
            self._remove(one, keep=False)
        for one in self.taken:
            is_late = one.deadline <= self.now
            assert not (is_late and self.scheduler.get(one.id))
            assert is_late or one not in late

    @property
    def _admissions(self) -> int:
        return self.scheduler._waiting.admissions

    def step(self) -> None:
        step = self.scheduler.plan()
        self._check(step)
        for copy in step.copies:
            self.cache[copy.target] = self.cache[copy.source][: copy.length]
            assert len(self.cache[copy.target]) == copy.length
        for one in step.decodes:
            self._write(one, one.computed, 1)
        for chunk in step.chunks:
            self._write(chunk.sequence, chunk.start, chunk.length)
        self.computed += step.tokens
        self.scheduler.done(step)
        whole = [chunk.sequence for chunk in step.chunks if chunk.completes]
        for one in (*step.decodes, *whole):
            one.produced += 1
            one.tokens.append(-one.produced)
            if one.produced >= one.limit:
                self._remove(one, keep=True)

    def _remove(self, one: Sequence, *, keep: bool) -> None:
        self.reused += one.reused
        if one.slot >= 0 and not keep:
            self.cache[one.slot] = []
        self.scheduler.remove(one, keep=keep)
        self.ended.append(one.id)

    def _write(self, one: Sequence, start: int, length: int) -> None:
        held = self.cache[one.slot]
        # All that comes before is there, is this prompt's, and is this scope's.
        assert held[:start] == [(one.scope, token) for token in one.tokens[:start]]
        new = one.tokens[start : start + length]
        assert len(new) == length
        self.cache[one.slot] = held[:start] + [(one.scope, token) for token in new]

    def _check(self, step: ForwardPass) -> None:
        parts = [*step.decodes, *(chunk.sequence for chunk in step.chunks)]
        assert len({one.id for one in parts}) == len(parts)
        assert step.tokens <= self.scheduler.budget
        running = [one.slot for one in self.scheduler._running.values()]
        assert len(set(running)) == len(running)
        assert all(0 <= slot < self.scheduler.slots for slot in running)
        free = self.scheduler._slots._free
        assert sorted([*running, *free]) == list(range(self.scheduler.slots))
        # Whoever runs makes the step do something: nobody waits for ever.
        assert not (running and step.is_empty)
        decoding = [it for it in self.scheduler._running.values() if it.is_decoding]
        assert {one.id for one in step.decodes} == {one.id for one in decoding}
        for one in self.taken:
            is_waiting = self.scheduler.get(one.id) is not None and one.slot < 0
            assert not is_waiting or self._admissions < self.patience[one.id]


@settings(max_examples=300)
@given(COMMANDS, st.integers(1, 4), st.integers(1, 24), st.integers(0, 8))
def test_every_request_ends_once_and_builds_only_on_its_own_tokens(
    commands: list[tuple[object, ...]], slots: int, budget: int, waiting: int
) -> None:
    rig = Rig(Scheduler(slots=slots, budget=budget, waiting=waiting))
    for command in commands:
        match command:
            case ("add", int(prompt), int(limit), rank, str(scope), int(fork), int(s)):
                assert isinstance(rank, WorkClass)
                one = sequence(
                    f"r{len(rig.taken)}",
                    prompt=prompt,
                    limit=limit,
                    work_class=rank,
                    deadline=rig.now + s,
                )
                one.scope = scope
                one.can_yield = rank is WorkClass.BATCH
                one.tokens = [at if at < fork else at + 100 for at in range(prompt)]
                rig.add(one)
            case ("cancel", int(index)):
                rig.end(index, keep=True)
            case ("fail", int(index)):
                rig.end(index, keep=False)
            case ("pass", int(seconds)):
                rig.wait(seconds)
            case _:
                rig.step()
    # Each admission of an urgent one makes at most one other begin again.
    longest = max((one.prompt + one.limit for one in rig.taken), default=0)
    for _ in range(2 * longest * len(rig.taken) + 1):
        if not rig.scheduler.active + rig.scheduler.waiting:
            break
        rig.step()
    assert sorted(rig.ended) == sorted(one.id for one in rig.taken)
    scheduler = rig.scheduler
    assert (scheduler.active, scheduler.waiting) == (0, 0)


def test_tokens_are_conserved_when_nobody_leaves_early() -> None:
    rig = Rig(Scheduler(slots=3, budget=16, waiting=40))
    for index in range(30):
        one = sequence(f"r{index}", prompt=40 + index, limit=3)
        one.tokens = [at if at < 30 else index * 100 + at for at in range(one.prompt)]
        rig.add(one)
    while rig.scheduler.active + rig.scheduler.waiting:
        rig.step()
    # The last answer token of each is never computed: nobody needs what follows it.
    owed = sum(one.prompt + one.limit - 1 for one in rig.taken)
    assert rig.computed + rig.reused == owed
    # All but the first found the thirty tokens they begin with.
    assert rig.reused == 29 * 30


@given(
    st.lists(
        st.sampled_from([*[WorkClass.INTERACTIVE] * 4, WorkClass.JOB, WorkClass.BATCH]),
        min_size=40,
        max_size=80,
    )
)
def test_nobody_is_passed_by_for_longer_than_their_turn(
    arrivals: list[WorkClass],
) -> None:
    rig = Rig(Scheduler(slots=1, budget=8, waiting=200))
    backlog = [WorkClass.BATCH, *[WorkClass.INTERACTIVE] * 9]
    for number, rank in enumerate([*backlog, *arrivals]):
        one = sequence(f"r{number}", prompt=1, limit=1, work_class=rank)
        one.tokens = [number]
        rig.add(one)
        if number >= len(backlog):
            rig.step()  # looks at everyone's patience
    assert len(rig.ended) == len(arrivals)
