"""When a worker that hears nothing should doubt its consumers."""

from genie.contracts.inference import WorkClass
from workers.bidding.credits import WATCH_S, Credit, CreditWatchdog

CREDIT = Credit(queue="genie", model="m", work_class=WorkClass.INTERACTIVE)


def is_deaf(
    dog: CreditWatchdog, waiting: int, consumers: int = 1, opened_at: float = 0.0
) -> bool:
    return dog.is_deaf(CREDIT, opened_at, waiting=waiting, consumers=consumers)


def test_only_a_credit_that_is_open_for_long_is_doubted_and_not_all_the_time() -> None:
    dog = CreditWatchdog()
    assert dog.doubted({CREDIT: 95.0}, 100.0) == ()
    assert dog.doubted({CREDIT: 95.0}, 101.0) == ()
    later = 100.0 + WATCH_S
    assert dog.doubted({CREDIT: 95.0}, later) == (CREDIT,)
    assert dog.doubted({CREDIT: 95.0}, later + WATCH_S - 1) == ()


def test_a_queue_without_a_consumer_is_not_ours_any_more() -> None:
    assert is_deaf(CreditWatchdog(), 0, consumers=0)


def test_work_that_waits_at_two_looks_in_a_row_is_not_coming() -> None:
    dog = CreditWatchdog()
    assert [is_deaf(dog, n) for n in (1, 0, 1, 1)] == [False, False, False, True]


def test_a_credit_that_was_answered_in_between_is_another_one() -> None:
    dog = CreditWatchdog()
    assert not is_deaf(dog, 1, opened_at=0.0)
    assert not is_deaf(dog, 1, opened_at=5.0)
