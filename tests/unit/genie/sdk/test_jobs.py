"""Waiting for a job and reading its end."""

from collections.abc import Sequence
from threading import Event

import msgspec
import pytest

from fixtures.twin_jobs import TwinJobs
from genie import errors
from genie.api_types import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    CompletionDetails,
    EmbeddingsAnswer,
    JobAnswer,
    JobFault,
    JobTiming,
    TextChoice,
    TextCompletion,
    TokenUsage,
)
from genie.contracts.inference import JobState, Locality
from genie.sdk.jobs import Job
from genie.sdk.results import result_from_completion, result_of
from genie.sdk.retries import PATIENCE_S

ANSWER = ChatCompletion(
    id="chatcmpl-01a",
    model="smollm2:135m",
    choices=(
        ChatChoice(message=AssistantMessage(content="Hello"), finish_reason="stop"),
    ),
    usage=TokenUsage(prompt_tokens=5, completion_tokens=8),
    system_fingerprint="gf1-x",
    model_substituted="qwen3:4b",
    genie=CompletionDetails(
        job_id="01a",
        persona="chat",
        worker="gpu-1",
        locality=Locality.LOCAL,
        queue_s=0.1,
        first_token_s=0.2,
        total_s=2.0,
        tokens_per_s=4.5,
    ),
)
QUEUED = JobAnswer(id="chatcmpl-01a", status=JobState.QUEUED)
RUNNING = JobAnswer(id="01a", status=JobState.RUNNING)
COMPLETED = JobAnswer(id="01a", status=JobState.COMPLETED, result=ANSWER)
AWAY = errors.CloudUnreachable("away")

Said = JobAnswer | errors.GenieError


class TwinCloud(TwinJobs):
    """Says one thing after the other, the last for ever."""

    def __init__(self, *said: Said) -> None:
        super().__init__(self._next)
        self.said: list[Said] = list(said)

    def _next(self, _job_id: str) -> JobAnswer:
        said = self.said.pop(0) if len(self.said) > 1 else self.said[0]
        if isinstance(said, errors.GenieError):
            raise said
        return said


def ended(state: JobState, error: JobFault | None = None) -> JobAnswer:
    return JobAnswer(id="01a", status=state, error=error)


def test_a_job_is_polled_more_and_more_slowly_until_it_ends() -> None:
    cloud = TwinCloud(*[QUEUED] * 5, *[RUNNING] * 10, COMPLETED)
    assert Job(cloud, QUEUED).result().text == "Hello"
    assert cloud.sleeps[0] == 0.05
    assert cloud.sleeps == sorted(cloud.sleeps)
    assert cloud.sleeps[-1] == 1.0


def test_a_job_that_has_ended_is_not_asked_for_again() -> None:
    cloud = TwinCloud(AWAY)
    assert Job(cloud, COMPLETED).result().text == "Hello"
    assert Job(cloud, COMPLETED).done()
    assert cloud.sleeps == []


def test_the_state_is_what_was_last_heard() -> None:
    job = Job(TwinCloud(RUNNING), QUEUED)
    assert job.status is JobState.QUEUED
    assert not job.done()
    assert job.refresh().status is JobState.RUNNING
    assert repr(job) == "Job(id='01a', status='running')"


def test_waiting_ends_after_its_timeout_and_the_job_goes_on() -> None:
    cloud = TwinCloud(RUNNING)
    with pytest.raises(errors.JobTimeout, match=r"still running after 3 s") as caught:
        Job(cloud, QUEUED).result(timeout=3)
    assert caught.value.error_code == "wait_timeout"
    assert sum(cloud.sleeps) == pytest.approx(3.0)


def test_no_waiting_at_all_still_looks_once() -> None:
    assert Job(TwinCloud(COMPLETED), QUEUED).wait(timeout=0).status.is_terminal


def test_a_cloud_that_goes_away_and_comes_back_loses_no_job() -> None:
    cloud = TwinCloud(RUNNING, *[AWAY] * 60, RUNNING, *[AWAY] * 60, COMPLETED)
    assert Job(cloud, QUEUED).result().text == "Hello"


def test_a_cloud_that_stays_away_is_given_up() -> None:
    cloud = TwinCloud(RUNNING, AWAY)
    with pytest.raises(errors.CloudUnreachable):
        Job(cloud, QUEUED).wait()
    assert PATIENCE_S <= sum(cloud.sleeps) <= PATIENCE_S + 5


def test_a_job_that_is_gone_is_not_waited_for() -> None:
    with pytest.raises(errors.UnknownJob):
        Job(TwinCloud(errors.UnknownJob("gone")), QUEUED).wait()


def test_a_cancelled_job_has_no_result() -> None:
    job = Job(TwinCloud(RUNNING), QUEUED).cancel()
    with pytest.raises(errors.JobCancelled, match="01a was cancelled"):
        job.result()


@pytest.mark.parametrize(
    ("details", "kind", "says"),
    [
        (ended(JobState.FAILED), errors.JobFailed, "genie jobs show 01a"),
        (ended(JobState.TIMEOUT), errors.JobTimeout, "deadline"),
        (
            ended(JobState.FAILED, JobFault(message="no", code="poison")),
            errors.JobFailed,
            "no",
        ),
        (
            ended(
                JobState.FAILED,
                JobFault(message="long", code="context_length_exceeded"),
            ),
            errors.ContextTooLong,
            "long",
        ),
        (
            ended(
                JobState.TIMEOUT, JobFault(message="late; ask again", code="deadline")
            ),
            errors.JobTimeout,
            "late",
        ),
        (ended(JobState.COMPLETED), errors.JobFailed, "no longer kept"),
    ],
)
def test_a_job_without_an_answer_says_why(
    details: JobAnswer, kind: type[errors.GenieError], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        result_of(details)
    assert type(caught.value) is kind


def test_a_result_knows_how_it_came_about() -> None:
    result = result_from_completion(ANSWER)
    assert str(result) == "Hello"
    assert (result.job_id, result.model, result.worker) == (
        "01a",
        ANSWER.model,
        "gpu-1",
    )
    assert result.locality is Locality.LOCAL
    assert result.substituted == "qwen3:4b"
    assert result.usage.completion_tokens == 8
    assert result.timing.first_token_s == 0.2
    assert result.tokens_per_s == 4.5


def test_what_a_completion_leaves_out_comes_from_the_job() -> None:
    bare = ChatCompletion(choices=ANSWER.choices)
    job = JobAnswer(
        id="01a",
        status=JobState.COMPLETED,
        model="m",
        worker="w",
        persona="review",
        usage=TokenUsage(completion_tokens=6),
        timing=JobTiming(total_s=2.0),
        result=bare,
    )
    result = result_of(job)
    assert (result.job_id, result.model, result.worker) == ("01a", "m", "w")
    assert result.persona == "review"
    assert result.tokens_per_s == 3.0


def test_the_answer_to_a_plain_prompt_is_its_text() -> None:
    answer = TextCompletion(choices=(TextChoice(text="on"),))
    assert result_from_completion(answer).text == "on"


def test_a_job_of_vectors_has_no_text_and_says_where_they_are() -> None:
    made = EmbeddingsAnswer(model="minilm")
    job = JobAnswer(id="01a", status=JobState.COMPLETED, result=made)
    with pytest.raises(errors.JobFailed, match="vectors, not text; `genie jobs show"):
        result_of(job)


@pytest.mark.parametrize("choices", [(), None])
def test_a_completion_without_an_answer_is_refused(
    choices: Sequence[ChatChoice],
) -> None:
    empty = msgspec.structs.replace(ANSWER, choices=choices or ())
    with pytest.raises(errors.CodecError, match="no choices"):
        result_from_completion(empty)


def test_a_retry_is_another_job() -> None:
    old = Job(TwinCloud(QUEUED), ended(JobState.FAILED))
    new = old.retry()
    assert (new.id, new.details.retry_of, old.id) == ("02b", "01a", "01a")


def test_a_jobs_events_are_those_the_cloud_tells() -> None:
    told = Job(TwinCloud(COMPLETED), QUEUED).events()
    assert [event.event for event in told] == ["accepted", "completed"]


def test_a_callback_hears_of_the_end() -> None:
    job, heard = Job(TwinCloud(RUNNING, COMPLETED), QUEUED), Event()
    told: list[Job] = []

    def tell(done: Job) -> None:
        told.append(done)
        heard.set()

    job.add_done_callback(tell)
    assert heard.wait(10)
    assert told == [job]
    assert job.status is JobState.COMPLETED
