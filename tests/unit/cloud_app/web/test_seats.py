import pytest

from cloud_app.web.seats import SPARE_THREADS, StreamLimit
from genie.errors import Unavailable


def test_eight_threads_are_kept_for_what_does_not_wait() -> None:
    assert StreamLimit(64).total == 64 - SPARE_THREADS
    assert StreamLimit(4).total == 1


def test_a_full_house_is_refused_with_a_time_to_come_again() -> None:
    seats = StreamLimit(9)
    seat = seats.take()
    with pytest.raises(Unavailable) as refused:
        seats.take()
    assert refused.value.retry_after_s == 2

    seat.leave()

    assert seats.take() is not seat


def test_leaving_twice_frees_one_place() -> None:
    seats = StreamLimit(10)
    first, _second = seats.take(), seats.take()

    first.leave()
    first.leave()

    assert seats.taken == 1
