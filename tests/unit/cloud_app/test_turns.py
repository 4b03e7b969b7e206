import threading
import time
from collections.abc import Iterator

import pytest

from cloud_app.turns import Turns, leave

NOW_S, NEVER_S = 0.02, 60.0


class Other:
    """Another thread that wants a turn and leaves it when told."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.has_turn, self._may_end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._turns.take()
        self._turns.begin()
        self.has_turn.set()
        self._may_end.wait(10)
        leave()

    def end(self) -> None:
        """Leave."""
        self._may_end.set()
        self._thread.join(10)


@pytest.fixture
def turns() -> Iterator[Turns]:
    """One turn, and nobody has it; long work may keep it."""
    yield Turns(at_once=1, patience_s=NEVER_S)
    leave()


def test_a_turn_that_is_left_is_the_next_ones(turns: Turns) -> None:
    turns.take()
    turns.begin()
    other = Other(turns)
    leave()
    assert other.has_turn.wait(10)
    other.end()


def test_nobody_loses_a_turn_with_nothing_to_work_on() -> None:
    turns = Turns(at_once=1, patience_s=NOW_S)
    turns.take()
    other = Other(turns)
    assert not other.has_turn.wait(5 * NOW_S)
    turns.begin()
    leave()
    other.end()


def test_who_works_long_loses_the_turn_and_has_none_to_give() -> None:
    turns = Turns(at_once=1, patience_s=NOW_S)
    turns.take()
    turns.begin()
    other = Other(turns)
    assert other.has_turn.wait(10)
    leave()  # lost already
    other.end()
    turns.take()
    third = Other(turns)  # there is still one turn, and it is taken
    assert not third.has_turn.wait(5 * NOW_S)
    turns.begin()
    leave()
    third.end()


def test_leaving_twice_or_without_a_turn_gives_nobody_another(turns: Turns) -> None:
    leave()
    turns.take()
    turns.begin()
    leave()
    leave()
    first = Other(turns)
    assert first.has_turn.wait(10)
    second = Other(turns)
    assert not second.has_turn.wait(5 * NOW_S)
    first.end()
    second.end()


def test_many_in_line_all_have_their_turn(turns: Turns) -> None:
    others = [Other(turns) for _ in range(8)]
    for _ in range(200):
        for other in others:
            if other.has_turn.is_set():
                other.end()
        time.sleep(0.01)
    assert all(other.has_turn.is_set() for other in others)


def test_nobody_waits_for_a_turn_that_is_overdue(turns: Turns) -> None:
    turns.take()
    turns.begin()
    turns._began = dict.fromkeys(turns._began, time.monotonic() - 2 * NEVER_S)
    other = Other(turns)
    assert other.has_turn.wait(10)
    other.end()
