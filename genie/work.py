"""The part of the client about work that goes on without anybody: jobs, schedules."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypedDict, Unpack
from urllib.parse import quote

import msgspec

from genie import answers, many, schedules
from genie.answers import Answer, JobAnswer, JobEvent
from genie.chat import Options, check
from genie.errors import CloudUnreachable, Unavailable
from genie.jobs import PATIENCE_S, Job, Result, bare, pauses
from genie.schedules import (
    RunAnswer,
    Schedule,
    ScheduleAnswer,
    ScheduleOptions,
)
from genie.transport import READ_S, Body, Call, Clock, Transport

JSON = {"content-type": "application/json"}


class RetryFilters(TypedDict, total=False):
    """Which jobs to retry; each is optional."""

    state: str | None
    """``failed``, ``timeout`` or ``cancelled``; the first two unless given."""
    persona: str | None
    model: str | None
    worker: str | None
    since: float | None
    limit: int


class SkippedJob(Answer, frozen=True):
    """A job that could not be retried, and why."""

    id: str
    why: str


class RetriedAnswer(Answer, frozen=True):
    """The new jobs of a retry of many, and those that were left."""

    data: tuple[JobAnswer, ...] = ()
    skipped: tuple[SkippedJob, ...] = ()


class DeliveryAnswer(Answer, frozen=True):
    """One webhook delivery; times are seconds since 1970."""

    id: str
    status: str
    event: str | None = None
    job_id: str | None = None
    url: str | None = None
    attempts: int = 0
    response_status: int | None = None
    error: str | None = None
    created_at: float | None = None
    ended_at: float | None = None


class RetentionAnswer(Answer, frozen=True):
    """How many hours texts are kept: what the org says, and what comes of it."""

    hours: int | None = None
    kept_h: float = 0.0


class Work:
    """Jobs and schedules of one cloud; `genie.client.Client` is one."""

    _transport: Transport
    _clock: Clock

    def submit(self, prompt: str | None = None, **options: Unpack[Options]) -> Job:
        """A question as a job; `genie.client.Client.submit` says more."""
        raise NotImplementedError

    def map(
        self,
        prompts: Iterable[str],
        *,
        at_once: int = many.AT_ONCE,
        **options: Unpack[Options],
    ) -> Iterator[Result]:
        """The answer to each prompt, in their order, as jobs.

        At most ``at_once`` are open at a time. Raises the error of a job that fails
        when its turn comes; TypeError for ``idempotency_key``, which is one job's.
        """
        if options.get("idempotency_key"):
            raise TypeError("an idempotency_key is one job's; map makes its own")
        return many.answers(
            lambda prompt: self.submit(prompt, **options), prompts, at_once
        )

    def fetch_jobs(self, job_ids: Sequence[str]) -> tuple[JobAnswer, ...]:
        """The states of up to 200 jobs now, as data; unknown ids are left out."""
        params = {"ids": ",".join(job_ids), "limit": str(max(1, len(job_ids)))}
        return answers.read_list(JobAnswer, self._read("/v1/jobs", params))

    def retry_job(self, job_id: str) -> JobAnswer:
        """The new job that asks again what a failed one asked, as data."""
        path = f"/v1/jobs/{quote(bare(job_id), safe='')}/retry"
        return answers.read(JobAnswer, self._write("POST", path))

    def retry_jobs(
        self, **filters: Unpack[RetryFilters]
    ) -> tuple[tuple[Job, ...], tuple[SkippedJob, ...]]:
        """Retry the newest jobs that match and did not complete.

        The new jobs, and those that could not be retried with the reason.
        """
        check(filters, RetryFilters)
        wanted = {name: value for name, value in filters.items() if value is not None}
        found = answers.read(
            RetriedAnswer, self._write("POST", "/v1/jobs/retry", wanted)
        )
        return tuple(Job(self, one) for one in found.data), found.skipped

    def job_timeline(self, job_id: str) -> tuple[JobEvent, ...]:
        """What happened to a job so far, in order."""
        path = f"/v1/jobs/{quote(bare(job_id), safe='')}"
        found = self._read(path, {"timeline": "true"})
        return answers.read(_Timeline, found).timeline

    def follow_job(self, job_id: str) -> Iterator[JobEvent]:
        """What happens to a job, as it happens, until it has ended.

        Goes on where it was when the connection breaks; a cloud that is away is
        waited for up to 120 s.
        """
        last: str | None = None
        away_since: float | None = None
        for pause in pauses():
            try:
                for seen, event in self._events(job_id, last):
                    last, away_since = seen, None
                    yield event
                return
            except Unavailable:
                away_since = self._clock.now() if away_since is None else away_since
                if self._clock.now() - away_since > PATIENCE_S:
                    raise
            self._clock.sleep(pause)

    def schedule(
        self,
        prompt: str | None = None,
        *,
        cron: str,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Ask this at the times of a cron line, until it is removed.

        Texts may hold ``{{date}}``, ``{{yesterday}}``, ``{{weekday}}`` and more.
        Raises `BadRequest` for a wrong line and `Conflict` for a name that is taken.

            client.schedule("News of {{date}}?", cron="30 7 * * 1-5", name="news",
                            timezone="Europe/Berlin", persona="chat")
        """
        check(options, ScheduleOptions)
        wanted = schedules.body(prompt, cron, options)
        made = self._write("POST", "/v1/schedules", wanted, safe=False)
        return Schedule(self, answers.read(ScheduleAnswer, made))

    def schedules(self) -> tuple[Schedule, ...]:
        """Every schedule of your org, by name."""
        found = answers.read_list(ScheduleAnswer, self._read("/v1/schedules"))
        return tuple(Schedule(self, one) for one in found)

    def find_schedule(self, name_or_id: str) -> Schedule:
        """One schedule by its name or id; raises `NotFound`."""
        return Schedule(self, self.fetch_schedule(name_or_id))

    def fetch_schedule(self, schedule_id: str) -> ScheduleAnswer:
        """A schedule now, with its newest runs, as data."""
        return answers.read(ScheduleAnswer, self._read(_schedule_path(schedule_id)))

    def change_schedule(self, schedule_id: str, verb: str) -> ScheduleAnswer:
        """A schedule after ``pause`` or ``resume``, as data."""
        path = f"{_schedule_path(schedule_id)}/{verb}"
        return answers.read(ScheduleAnswer, self._write("POST", path))

    def run_schedule(self, schedule_id: str) -> RunAnswer:
        """Start a run of a schedule at once."""
        path = f"{_schedule_path(schedule_id)}/run"
        return answers.read(RunAnswer, self._write("POST", path, safe=False))

    def remove_schedule(self, schedule_id: str) -> None:
        """Delete a schedule; its jobs stay."""
        self._write("DELETE", _schedule_path(schedule_id))

    def deliveries(
        self, job: str | None = None, *, limit: int = 20
    ) -> tuple[DeliveryAnswer, ...]:
        """Webhook deliveries of the last week, newest first."""
        params = {"limit": str(limit)} | ({"job": bare(job)} if job else {})
        body = self._read("/v1/webhook-deliveries", params)
        return answers.read_list(DeliveryAnswer, body)

    def redeliver(self, delivery_id: str) -> DeliveryAnswer:
        """Tell a webhook again what it was told, or should have been."""
        path = f"/v1/webhook-deliveries/{quote(delivery_id, safe='')}/redeliver"
        return answers.read(DeliveryAnswer, self._write("POST", path))

    def retention(self) -> RetentionAnswer:
        """How long your org's texts are kept. Needs an admin key."""
        return answers.read(RetentionAnswer, self._read("/v1/retention"))

    def set_retention(self, hours: int | None) -> RetentionAnswer:
        """Keep texts for so many hours after a job's end; None: as the cloud does.

        0 keeps nothing past its delivery. Needs an admin key.
        """
        body = self._write("PUT", "/v1/retention", {"hours": hours})
        return answers.read(RetentionAnswer, body)

    def now(self) -> float:
        """Seconds of the client's monotonic clock."""
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        """Wait on the client's clock."""
        self._clock.sleep(seconds)

    def fetch_job(self, job_id: str) -> JobAnswer:
        """A job's state now, as data."""
        path = f"/v1/jobs/{quote(bare(job_id), safe='')}"
        return answers.read(JobAnswer, self._read(path))

    def cancel_job(self, job_id: str) -> JobAnswer:
        """Cancel a job; returns its state after that, as data."""
        path = f"/v1/jobs/{quote(bare(job_id), safe='')}/cancel"
        return answers.read(JobAnswer, self._write("POST", path))

    def _events(self, job_id: str, last: str | None) -> Iterator[tuple[str, JobEvent]]:
        call = Call(
            method="GET",
            path=f"/v1/jobs/{quote(bare(job_id), safe='')}/events",
            headers={"last-event-id": last} if last else {},
            timeout_s=READ_S,
            is_repeatable=True,
        )
        source = Body(
            self._transport.url, call, self._transport.send(call, stream=True)
        )
        try:
            yield from _parsed(source.lines(), last)
        finally:
            source.close()

    def _read(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        call = Call(method="GET", path=path, params=params or {}, is_repeatable=True)
        return self._transport.call(call)

    def _write(
        self,
        method: str,
        path: str,
        data: Mapping[str, object] | None = None,
        *,
        safe: bool = True,
    ) -> bytes:
        body = None if method == "DELETE" else msgspec.json.encode(data or {})
        call = Call(
            method=method, path=path, body=body, headers=JSON, is_repeatable=safe
        )
        return self._transport.call(call)


class _Timeline(Answer, frozen=True):
    timeline: tuple[JobEvent, ...] = ()


def _parsed(lines: Iterable[str], last: str | None) -> Iterator[tuple[str, JobEvent]]:
    """Each event with its id; raises `CloudUnreachable` when the end never came."""
    key = last or ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "id":
            key = value
        elif field == "data":
            yield key, answers.read(JobEvent, value)
    if key not in ENDS:
        raise CloudUnreachable("the connection ended before the job did")


ENDS = ("completed", "failed", "cancelled", "timeout")
"""The last event of a job."""


def _schedule_path(name_or_id: str) -> str:
    return f"/v1/schedules/{quote(name_or_id, safe='')}"
