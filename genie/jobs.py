"""A job someone submitted, and the result it ends with."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Protocol

from genie.answers import (
    Completion,
    Delivery,
    JobAnswer,
    JobEvent,
    Times,
    TokenUsage,
)
from genie.contracts.inference import JobState, Locality, Timing, Usage
from genie.errors import (
    CodecError,
    GenieError,
    JobCancelled,
    JobFailed,
    JobTimeout,
    Unavailable,
)
from genie.responses import raised

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0

PATIENCE_S = 120.0
"""How long a cloud may be away while someone waits for a job it has accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """An answer and how it came about; ``str(result)`` is the text.

    ``substituted`` is the model that was wanted when a smaller one had to answer,
    else None. Times are in seconds.
    """

    text: str
    model: str
    job_id: str
    worker: str | None
    locality: Locality | None
    persona: str | None
    usage: Usage
    timing: Timing
    substituted: str | None
    tokens_per_s: float
    finish_reason: str | None
    fingerprint: str | None

    def __str__(self) -> str:
        return self.text


class Cloud(Protocol):
    """What a job needs of the client that submitted it."""

    def fetch_job(self, job_id: str) -> JobAnswer:
        """The job as the cloud knows it now."""

    def cancel_job(self, job_id: str) -> JobAnswer:
        """The job after it was told to stop."""

    def fetch_jobs(self, job_ids: Sequence[str]) -> tuple[JobAnswer, ...]:
        """Several jobs as the cloud knows them now."""

    def retry_job(self, job_id: str) -> JobAnswer:
        """The new job that asks the same again."""

    def follow_job(self, job_id: str) -> Iterator[JobEvent]:
        """What happens to the job until it has ended."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class Job:
    """Submitted work. ``status`` is what was last heard; `refresh` asks again."""

    def __init__(self, cloud: Cloud, details: JobAnswer) -> None:
        self.id = bare(details.id)
        self.details = details
        self._cloud = cloud

    def __repr__(self) -> str:
        return f"Job(id={self.id!r}, status={self.status.value!r})"

    @property
    def status(self) -> JobState:
        """The state last heard of, without asking again."""
        return self.details.status

    def refresh(self) -> "Job":
        """Ask the cloud for the job's state now; returns this job."""
        self.details = self._cloud.fetch_job(self.id)
        return self

    def done(self) -> bool:
        """True when nothing can change the job any more; asks unless known."""
        return self.status.is_terminal or self.refresh().status.is_terminal

    def cancel(self) -> "Job":
        """Stop the job; one that has ended stays as it is. Returns this job."""
        self.details = self._cloud.cancel_job(self.id)
        return self

    @property
    def cloud(self) -> Cloud:
        """Where it was submitted."""
        return self._cloud

    def retry(self) -> "Job":
        """Submit a job that did not complete again; returns the new job.

        Doing it twice gives the same new job. Raises `BadRequest` (code
        ``not_retryable``) when there is nothing to retry.
        """
        return Job(self._cloud, self._cloud.retry_job(self.id))

    def events(self) -> Iterator[JobEvent]:
        """What happens to the job, from its acceptance until it has ended."""
        return self._cloud.follow_job(self.id)

    def add_done_callback(self, tell: Callable[["Job"], object]) -> None:
        """Call ``tell`` with this job once it has ended, in a thread of its own."""
        thread = Thread(target=lambda: tell(self.wait()), name=f"genie-{self.id}")
        thread.daemon = True  # a program may end before its jobs do
        thread.start()

    def wait(self, timeout: float | None = None) -> "Job":
        """Wait until the job has ended, at most ``timeout`` seconds.

        A cloud that is away is waited for up to 120 s: an accepted job is kept.
        Raises `JobTimeout` (code ``wait_timeout``) when the job outlasts ``timeout``;
        the job itself goes on.
        """
        until = None if timeout is None else self._cloud.now() + timeout
        for pause in self._polls():
            left = LONGEST_PAUSE_S if until is None else until - self._cloud.now()
            if left <= 0:
                raise self._outlasted(timeout or 0.0)
            self._cloud.sleep(min(pause, left))
        return self

    def result(self, timeout: float | None = None) -> Result:
        """The answer, waiting at most ``timeout`` seconds for it.

        Raises `JobFailed`, `JobCancelled` or `JobTimeout` when there is none.
        """
        return result_of(self.wait(timeout).details)

    def _polls(self) -> Iterator[float]:
        """A pause before each further look, until the job has ended."""
        away_since: float | None = None
        for pause in pauses():
            try:
                if self.done():
                    return
                away_since = None
            except Unavailable:
                away_since = self._cloud.now() if away_since is None else away_since
                if self._cloud.now() - away_since > PATIENCE_S:
                    raise
            yield pause

    def _outlasted(self, timeout: float) -> JobTimeout:
        return JobTimeout(
            f"job {self.id} is still {self.status.value} after {timeout:g} s and goes "
            "on; wait again with result(), or stop it with cancel()",
            code="wait_timeout",
        )


def pauses(longest_s: float = LONGEST_PAUSE_S) -> Iterator[float]:
    """Seconds between two looks at a job: 0.05, growing by half to 1.

    >>> from itertools import islice
    >>> [round(pause, 3) for pause in islice(pauses(), 4)]
    [0.05, 0.075, 0.113, 0.169]
    """
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(longest_s, pause * 1.5)


def bare(job_id: str) -> str:
    """A job id without the prefix OpenAI's clients know it by.

    >>> bare("chatcmpl-01hx3k"), bare("01hx3k")
    ('01hx3k', '01hx3k')
    """
    return job_id.removeprefix("chatcmpl-").removeprefix("cmpl-")


def result_of(details: JobAnswer) -> Result:
    """The result of a job that has ended; raises the error of one without."""
    if details.status is not JobState.COMPLETED:
        raise failure(details)
    if details.result is None:
        raise JobFailed(
            f"job {bare(details.id)} completed but its answer is no longer kept; "
            "answers are deleted a day after the end: submit it again",
            code="result_expired",
        )
    return completed(details.result, details)


def failure(details: JobAnswer) -> GenieError:
    """Why a job that has ended has no result, as the error to raise."""
    job_id = bare(details.id)
    if details.status is JobState.CANCELLED:
        return JobCancelled(f"job {job_id} was cancelled; submit it again if needed")
    kind = JobTimeout if details.status is JobState.TIMEOUT else JobFailed
    if details.error is not None:
        return raised(details.error, kind)
    if kind is JobTimeout:
        return JobTimeout(f"job {job_id} passed its deadline; allow a longer timeout")
    return JobFailed(f"job {job_id} failed; `genie jobs show {job_id}` says more")


def completed(answer: Completion, details: JobAnswer | None = None) -> Result:
    """A completion as a result; what it leaves out is taken from the job."""
    if not answer.choices:
        raise CodecError("the cloud's completion has no choices; report this")
    choice, delivery = answer.choices[0], answer.genie or Delivery()
    job = details or JobAnswer(id=answer.id or "", status=JobState.COMPLETED)
    usage = _usage(answer.usage or job.usage or TokenUsage())
    timing = _timing(delivery, job.timing)
    return Result(
        text=(choice.message and choice.message.content) or choice.text or "",
        model=answer.model or job.model or "",
        job_id=bare(delivery.job_id or job.id),
        worker=delivery.worker or job.worker,
        locality=delivery.locality or job.locality,
        persona=delivery.persona or job.persona,
        usage=usage,
        timing=timing,
        substituted=answer.model_substituted or job.model_substituted,
        tokens_per_s=delivery.tokens_per_s or _speed(usage, timing),
        finish_reason=choice.finish_reason,
        fingerprint=answer.system_fingerprint,
    )


def _usage(usage: TokenUsage) -> Usage:
    nested = usage.prompt_tokens_details
    cached = usage.cached_tokens or (nested and nested.cached_tokens) or 0
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=cached,
    )


def _timing(delivery: Delivery, kept: Times | None) -> Timing:
    given = delivery if delivery.total_s is not None or kept is None else kept
    return Timing(
        queue_s=given.queue_s or 0.0,
        first_token_s=given.first_token_s or 0.0,
        total_s=given.total_s or 0.0,
    )


def _speed(usage: Usage, timing: Timing) -> float:
    busy = timing.total_s
    return usage.completion_tokens / busy if busy > 0 else 0.0
