import pytest

from cloud_app.web.stream_limit import SPARE_THREADS, StreamLimit
from genie.errors import Unavailable


def test_eight_threads_are_kept_for_what_does_not_wait() -> None:
    assert StreamLimit(64).total == 64 - SPARE_THREADS
    assert StreamLimit(4).total == 1


def test_a_full_house_is_refused_with_a_time_to_come_again() -> None:
    limit = StreamLimit(9)
    limit.take()
    with pytest.raises(Unavailable) as refused:
        limit.take()
    assert refused.value.retry_after_s == 2

    limit.give_back()

    limit.take()
    assert limit.taken == 1
