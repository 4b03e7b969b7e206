"""The bounded memory of cancelled jobs."""

from workers.serving.serving import CancelledJobs


def test_a_cancelled_job_is_remembered_and_others_are_not() -> None:
    cancels = CancelledJobs()
    cancels.add("a", now=0.0)
    assert cancels.has("a", now=1.0)
    assert not cancels.has("b", now=1.0)


def test_a_cancel_is_forgotten_after_its_time() -> None:
    cancels = CancelledJobs(keep_s=10.0)
    cancels.add("a", now=0.0)
    assert not cancels.has("a", now=10.0)


def test_no_number_of_cancels_takes_more_than_its_bound() -> None:
    cancels = CancelledJobs(keep=3)
    for n in range(10):
        cancels.add(f"{n}", now=float(n))
    assert [n for n in range(10) if cancels.has(f"{n}", now=10.0)] == [7, 8, 9]
