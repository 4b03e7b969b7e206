"""Simulated time, by example."""

from benchmarks.simulator.clock import Clock


def test_what_is_due_first_happens_first_and_ties_keep_their_order() -> None:
    clock, heard = Clock(), list[str]()
    clock.at(2.0, lambda: heard.append("late"))
    clock.at(1.0, lambda: heard.append("first"))
    clock.at(1.0, lambda: heard.append("second"))
    clock.run()
    assert heard == ["first", "second", "late"]
    assert clock.now == 2.0


def test_a_time_already_past_means_now() -> None:
    clock, heard = Clock(), list[float]()
    clock.at(5.0, lambda: clock.at(1.0, lambda: heard.append(clock.now)))
    clock.run()
    assert heard == [5.0]


def test_what_repeats_ends_when_the_clock_is_stopped() -> None:
    clock, heard = Clock(), list[float]()
    clock.every(1.0, lambda: heard.append(clock.now))
    clock.at(3.5, clock.stop)
    clock.run()
    assert heard == [1.0, 2.0, 3.0]
