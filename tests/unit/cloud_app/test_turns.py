import threading
import time

from cloud_app.turns import PATIENCE_S, Turns, leave


def took_s(turns: Turns) -> float:
    began = time.monotonic()
    turns.take()
    return time.monotonic() - began


def test_who_has_no_turn_goes_on_all_the_same() -> None:
    turns = Turns(at_once=1)
    turns.take()
    other = threading.Thread(target=turns.take)
    other.start()
    other.join(timeout=PATIENCE_S + 10)
    assert not other.is_alive()
    leave()


def test_a_turn_that_is_left_is_the_next_ones() -> None:
    turns = Turns(at_once=1)
    waiting, passed = threading.Event(), threading.Event()

    def wait() -> None:
        waiting.set()
        while took_s(turns) >= PATIENCE_S:
            pass
        leave()
        passed.set()

    turns.take()
    other = threading.Thread(target=wait)
    other.start()
    assert waiting.wait(10)
    leave()
    assert passed.wait(10)
    other.join(timeout=10)


def test_leaving_twice_or_without_a_turn_gives_nobody_another() -> None:
    turns, found = Turns(at_once=1), list[float]()
    leave()
    turns.take()
    leave()
    leave()
    assert took_s(turns) < PATIENCE_S
    other = threading.Thread(target=lambda: found.append(took_s(turns)))
    other.start()
    other.join(timeout=10)
    leave()
    assert found[0] >= PATIENCE_S


def test_a_turn_not_had_is_not_given_back() -> None:
    turns = Turns(at_once=1)
    turns.take()

    def pass_by() -> None:
        turns.take()
        leave()

    refused = threading.Thread(target=pass_by)
    refused.start()
    refused.join(timeout=10)
    assert took_s(turns) >= PATIENCE_S
