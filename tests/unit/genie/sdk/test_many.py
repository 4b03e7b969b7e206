"""Many jobs at once: as they end, in order, one for each prompt."""

import pytest

from fixtures.twin_jobs import TwinJobs
from genie import errors
from genie.api_types import AssistantMessage, ChatChoice, ChatCompletion, JobAnswer
from genie.contracts.inference import JobState
from genie.sdk import many
from genie.sdk.jobs import Job
from genie.sdk.requests import Pause, Steps
from genie.sdk.retries import PATIENCE_S


class TwinCloud(TwinJobs):
    """Ends each job after the seconds its id says."""

    def __init__(self) -> None:
        super().__init__(self._state)
        self.away = 0
        self.failing: set[str] = set()

    def job(self, seconds: int) -> Job:
        """A job that ends after so many seconds."""
        return Job(self, JobAnswer(id=f"{seconds}", status=JobState.QUEUED))

    def _state(self, job_id: str) -> JobAnswer:
        if self.away:
            self.away -= 1
            raise errors.CloudUnreachable("away")
        is_over = self.now() >= int(job_id)
        end = JobState.FAILED if job_id in self.failing else JobState.COMPLETED
        choice = ChatChoice(message=AssistantMessage(content=f"answer {job_id}"))
        return JobAnswer(
            id=job_id,
            status=end if is_over else JobState.RUNNING,
            result=ChatCompletion(choices=(choice,)) if is_over else None,
        )


def test_jobs_come_as_they_end() -> None:
    cloud = TwinCloud()
    jobs = [cloud.job(seconds) for seconds in (9, 3, 6)]
    assert [job.id for job in many.as_completed(jobs)] == ["3", "6", "9"]


def test_many_jobs_are_asked_for_a_page_at_a_time() -> None:
    cloud = TwinCloud()
    jobs = [cloud.job(-number) for number in range(250)]
    assert len(list(many.as_completed(jobs))) == 250
    assert [len(asked) for asked in cloud.pages] == [100, 100, 50]


def test_no_jobs_are_done_at_once() -> None:
    assert list(many.as_completed([])) == []
    assert many.gather([]) == []


def test_answers_are_gathered_in_the_order_of_the_jobs() -> None:
    cloud = TwinCloud()
    found = many.gather([cloud.job(5), cloud.job(2)])
    assert [result.text for result in found] == ["answer 5", "answer 2"]


def test_gathering_waits_for_all_and_then_raises() -> None:
    cloud = TwinCloud()
    cloud.failing.add("1")
    jobs = [cloud.job(1), cloud.job(7)]
    with pytest.raises(errors.JobFailed):
        many.gather(jobs)
    assert jobs[1].status is JobState.COMPLETED


def test_what_outlasts_the_timeout_goes_on() -> None:
    cloud = TwinCloud()
    with pytest.raises(errors.JobTimeout, match="1 jobs have not ended") as caught:
        many.gather([cloud.job(1), cloud.job(99)], timeout=5)
    assert caught.value.error_code == "wait_timeout"


def test_a_cloud_that_is_away_for_a_while_is_waited_for() -> None:
    cloud = TwinCloud()
    cloud.away = 5
    assert len(list(many.as_completed([cloud.job(1)]))) == 1
    cloud.away = 10_000
    with pytest.raises(errors.CloudUnreachable):
        list(many.as_completed([cloud.job(100_000)]))
    assert cloud.now() > PATIENCE_S


def test_prompts_are_answered_in_order_a_few_at_a_time() -> None:
    cloud = TwinCloud()
    submitted: list[str] = []

    def submit(prompt: str) -> Steps[Job]:
        submitted.append(prompt)
        yield Pause(seconds=0)
        return cloud.job(int(prompt))

    given = cloud.each(many.answers(submit, ("3", "1", "2", "4"), 2, None))
    assert next(given).text == "answer 3"
    assert submitted == ["3", "1"]
    assert [one.text for one in given] == ["answer 1", "answer 2", "answer 4"]
