"""Many jobs at once: as they end, in order, or one question per prompt."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from genie.api_types import JobAnswer, read_list
from genie.errors import JobTimeout
from genie.sdk.jobs import Job, JobVerbs
from genie.sdk.progress import bar
from genie.sdk.requests import JOBS, Item, Items, Steps, get
from genie.sdk.results import Result
from genie.sdk.retries import PollBackoff

AnyJob = JobVerbs[Any, Any]
J = TypeVar("J", bound=AnyJob)
P = TypeVar("P")

AT_ONCE = 64
"""The questions of one `map` that are open at once by default."""

PAGE = 100
"""Jobs read in one call."""


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
    if listed := list(jobs):
        yield from listed[0].cloud.each(ended_jobs(listed, timeout, progress))


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


def ended_jobs(
    jobs: Sequence[J], timeout: float | None, progress: bool | None
) -> Items[J]:
    """Each job as it ends; raises `JobTimeout`."""
    left = {job.id: job for job in jobs}
    wait = PollBackoff(jobs[0].cloud.now, timeout)
    look, late = partial(_refresh, left), partial(_outlasted, left, timeout or 0.0)
    with bar("jobs", len(left), progress) as shown:
        while left:
            yield from wait.until(look, late)
            for job in [one for one in left.values() if one.status.is_terminal]:
                del left[job.id]
                shown.advance()
                yield Item(job)


def answers(
    submit: Callable[[str], Steps[AnyJob]],
    prompts: Iterable[str],
    at_once: int,
    progress: bool | None,
) -> Items[Result]:
    """The answer to each prompt, in order; at most ``at_once`` jobs are open."""
    rest, opened = iter(prompts), deque[AnyJob]()
    total = len(prompts) if isinstance(prompts, Sized) else None
    with bar("answers", total, progress) as shown:
        while True:
            for prompt in islice(rest, max(1, at_once) - len(opened)):
                opened.append((yield from submit(prompt)))
            if not opened:
                return
            answer = yield from opened.popleft()._answer()
            shown.advance()
            yield Item(answer)


def _refresh(jobs: Mapping[str, AnyJob]) -> Steps[bool]:
    """Ask for all open jobs; True when any has ended."""
    asked = [one for one, job in jobs.items() if not job.status.is_terminal]
    for first in range(0, len(asked), PAGE):
        ids = asked[first : first + PAGE]
        params = {"ids": ",".join(ids), "limit": str(len(ids))}
        for details in read_list(JobAnswer, (yield get(JOBS, params))):
            jobs[details.id].details = details
    return any(job.status.is_terminal for job in jobs.values())


def _outlasted(left: Mapping[str, AnyJob], timeout: float) -> JobTimeout:
    return JobTimeout(
        f"{len(left)} jobs have not ended after {timeout:g} s, such as "
        f"{next(iter(left))}; wait again, or stop them with cancel()",
        code="wait_timeout",
    )
