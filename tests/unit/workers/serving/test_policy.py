"""What a dead engine means for the jobs that were in it."""

from genie.contracts.inference import Fault
from unit.workers.serving_twins import task
from workers.serving import policy


def test_only_an_engine_that_died_counts_against_a_job() -> None:
    died = Fault(code="engine_died", message="", retryable=True)
    closed = Fault(code="engine_closed", message="", retryable=True)
    assert [policy.is_crash(fault) for fault in (died, closed)] == [True, False]


def test_a_job_gets_three_tries_and_the_last_one_alone() -> None:
    job = task()
    alone = []
    while (again := policy.count_crash(job)) is not None:
        alone.append(policy.runs_alone(job))
        job = again
    assert [*alone, policy.runs_alone(job)] == [False, False, True]
    assert job.crashes == 2
