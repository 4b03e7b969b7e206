"""Many jobs at once: as they end, in order, or one question per prompt."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Generic, TypeVar

from genie import api_types
from genie.api_types import JobAnswer
from genie.errors import JobTimeout
from genie.sdk.chat import AskOptions
from genie.sdk.jobs import PATH, Job, JobSteps, Result
from genie.sdk.progress import bar
from genie.sdk.requests import Steps, get
from genie.sdk.retries import PollBackoff

J = TypeVar("J", bound=JobSteps[object])
P = TypeVar("P")

AT_ONCE = 64
"""The questions of one `map` that are open at once by default."""

PAGE = 100
"""Jobs read in one call."""


class PendingJobs(Generic[J]):
    """Jobs that have not ended; `looking` finds those that have ended since."""

    def __init__(
        self, jobs: Iterable[J], timeout: float | None, now: Callable[[], float]
    ) -> None:
        self.left = {job.id: job for job in jobs}
        self._timeout = timeout
        self._wait = PollBackoff(now, timeout)

    def looking(self) -> Steps[tuple[J, ...]]:
        """Wait until at least one has ended; raises `JobTimeout`."""
        yield from self._wait.until(self._look, self._outlasted)
        ended = tuple(job for job in self.left.values() if job.status.is_terminal)
        for job in ended:
            del self.left[job.id]
        return ended

    def _look(self) -> Steps[bool]:
        """Ask for all open jobs; True when any has ended."""
        asked = [one for one, job in self.left.items() if not job.status.is_terminal]
        for first in range(0, len(asked), PAGE):
            for details in (yield from fetch_all(asked[first : first + PAGE])):
                self.left[details.id].details = details
        return any(job.status.is_terminal for job in self.left.values())

    def _outlasted(self) -> JobTimeout:
        left, first = len(self.left), next(iter(self.left))
        return JobTimeout(
            f"{left} jobs have not ended after {self._timeout or 0:g} s, such as "
            f"{first}; wait again, or stop them with cancel()",
            code="wait_timeout",
        )


class JobWindow(Generic[J]):
    """A job for each prompt, a bounded number at once; answers in order."""

    def __init__(
        self,
        submitting: Callable[[str], Steps[J]],
        prompts: Iterable[str],
        at_once: int = AT_ONCE,
    ) -> None:
        self.total = len(prompts) if isinstance(prompts, Sized) else None
        self._submitting, self._prompts = submitting, iter(prompts)
        self._at_once = max(1, at_once)
        self._open: deque[J] = deque()

    def answering(self) -> Steps[Result | None]:
        """The answer to the next prompt; None after the last."""
        while len(self._open) < self._at_once:
            prompt = next(self._prompts, None)
            if prompt is None:
                break
            self._open.append((yield from self._submitting(prompt)))
        if not self._open:
            return None
        return (yield from self._open.popleft()._answering(None))


def refuse_key(options: AskOptions) -> None:
    """Refuse an idempotency key: many jobs cannot share it."""
    if options.get("idempotency_key"):
        raise TypeError("an idempotency_key names one job; map makes its own")


def as_completed(
    jobs: Iterable[Job[P]],
    timeout: float | None = None,
    *,
    progress: bool | None = None,
) -> Iterator[Job[P]]:
    """Yields each job as it ends, whether it succeeded or failed.

    One call asks for up to 100 jobs. Raises `JobTimeout` (code ``wait_timeout``) when
    some have not ended after ``timeout`` seconds; they go on. On a terminal a bar
    shows how far it is, unless ``progress`` is False.

    >>> jobs = [genie.submit(text) for text in ("Say one.", "Say two.")]
    >>> sorted(job.result().text for job in genie.as_completed(jobs))
    ['Say one.', 'Say two.']
    """
    listed = list(jobs)
    if not listed:
        return
    cloud = listed[0].cloud
    watch = PendingJobs(listed, timeout, cloud.now)
    with bar("jobs", len(watch.left), progress) as shown:
        while watch.left:
            for job in cloud.run(watch.looking()):
                shown.advance()
                yield job


def gather(
    jobs: Iterable[Job[P]],
    timeout: float | None = None,
    *,
    progress: bool | None = None,
) -> list[Result[P]]:
    """The answers of all jobs, in the order of the jobs.

    Waits for all of them, then raises the error of the first unsuccessful one. On a
    terminal a bar shows how far it is, unless ``progress`` is False.

    >>> jobs = [genie.submit(text) for text in ("Say one.", "Say two.")]
    >>> [result.text for result in genie.gather(jobs)]
    ['Say one.', 'Say two.']
    """
    listed = list(jobs)
    for _job in as_completed(listed, timeout, progress=progress):
        pass
    return [job.result() for job in listed]


def fetch_all(job_ids: list[str]) -> Steps[tuple[JobAnswer, ...]]:
    """The current states of up to 200 jobs; unknown ids are left out."""
    params = {"ids": ",".join(job_ids), "limit": str(max(1, len(job_ids)))}
    return api_types.read_list(JobAnswer, (yield get(PATH, params)))
