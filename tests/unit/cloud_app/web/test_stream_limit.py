import pytest

from cloud_app.web.stream_limit import SPARE_THREADS, StreamLimit
from genie.errors import Unavailable


def test_eight_threads_are_kept_for_what_does_not_wait() -> None:
    assert StreamLimit(64).total == 64 - SPARE_THREADS
    assert StreamLimit(4).total == 1


def test_a_full_house_is_refused_with_a_time_to_come_again() -> None:
    limit = StreamLimit(9)
    permit = limit.take()
    with pytest.raises(Unavailable) as refused:
        limit.take()
    assert refused.value.retry_after_s == 2

    permit.release()

    assert limit.take() is not permit


def test_leaving_twice_frees_one_place() -> None:
    limit = StreamLimit(10)
    first, _second = limit.take(), limit.take()

    first.release()
    first.release()

    assert limit.taken == 1
