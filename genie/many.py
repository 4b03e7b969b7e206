"""Many jobs at once: each as it ends, all in order, or one question per prompt."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from genie.errors import JobTimeout, Unavailable
from genie.jobs import PATIENCE_S, Cloud, Job, Result, pauses

AT_ONCE = 64
"""Questions of one `map` that are open at the same time, unless told otherwise."""

PAGE = 100
"""Jobs asked for in one call."""


def as_completed(jobs: Iterable[Job], timeout: float | None = None) -> Iterator[Job]:
    """Each job as soon as it has ended, however it ended; see its `Job.result`.

    One call asks for up to 100 jobs. Raises `JobTimeout` (code ``wait_timeout``) when
    some are still going on after ``timeout`` seconds; they go on.
    """
    left = {job.id: job for job in jobs}
    if not left:
        return
    cloud = next(iter(left.values())).cloud
    until = None if timeout is None else cloud.now() + timeout
    away_since: float | None = None
    for pause in pauses():
        try:
            ended = _look(cloud, left)
            away_since = None
        except Unavailable:
            ended = ()
            away_since = cloud.now() if away_since is None else away_since
            if cloud.now() - away_since > PATIENCE_S:
                raise
        for job in ended:
            del left[job.id]
            yield job
        if not left:
            return
        if until is not None and cloud.now() >= until:
            raise _outlasted(left, timeout or 0.0)
        cloud.sleep(pause)


def gather(jobs: Iterable[Job], timeout: float | None = None) -> list[Result]:
    """The answers of all jobs, in the order of the jobs.

    Waits for every one of them, then raises the error of the first that has none.
    """
    listed = list(jobs)
    for _job in as_completed(listed, timeout):
        pass
    return [job.result() for job in listed]


def answers(
    submit: Callable[[str], Job], prompts: Iterable[str], at_once: int = AT_ONCE
) -> Iterator[Result]:
    """The answer to each prompt, in their order, ``at_once`` of them open at a time."""
    waiting: deque[Job] = deque()
    for prompt in prompts:
        waiting.append(submit(prompt))
        if len(waiting) >= max(1, at_once):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _look(cloud: Cloud, left: dict[str, Job]) -> tuple[Job, ...]:
    """Ask for all that were still going on; those that have ended."""
    asked = [job_id for job_id, job in left.items() if not job.status.is_terminal]
    for first in range(0, len(asked), PAGE):
        for details in cloud.fetch_jobs(asked[first : first + PAGE]):
            left[details.id].details = details
    return tuple(job for job in left.values() if job.status.is_terminal)


def _outlasted(left: dict[str, Job], timeout: float) -> JobTimeout:
    return JobTimeout(
        f"{len(left)} jobs still go on after {timeout:g} s, such as "
        f"{next(iter(left))}; wait again, or stop them with cancel()",
        code="wait_timeout",
    )
