"""The part of the client about work that goes on without anybody: jobs, schedules."""

from collections.abc import AsyncIterator
from typing import Unpack

from genie.api_types import JobAnswer, JobEvent
from genie.sdk import jobs
from genie.sdk import schedules as scheduling
from genie.sdk.aio.jobs import AsyncCloud, AsyncJob, follow
from genie.sdk.aio.schedules import AsyncSchedule
from genie.sdk.schedules import RunAnswer, ScheduleAnswer, ScheduleOptions
from genie.sdk.steps import work as steps
from genie.sdk.steps.work import (
    DeliveryAnswer,
    JobListFilters,
    RetentionAnswer,
    RetryFilters,
    SkippedJob,
)


class AsyncJobOperations:
    """Jobs and schedules of one cloud; `genie.AsyncClient` is one."""

    _cloud: AsyncCloud

    async def jobs(self, **filters: Unpack[JobListFilters]) -> tuple[AsyncJob, ...]:
        """Jobs of your org, newest first, one page of them; see `Client.jobs`."""
        found = await self._cloud.run(steps.jobs(filters))
        return tuple(AsyncJob(self._cloud, details) for details in found)

    async def job(self, job_id: str) -> AsyncJob:
        """One job by its id, with or without the ``chatcmpl-`` prefix.

        See `Client.job`.
        """
        return AsyncJob(self._cloud, await self.fetch_job(job_id))

    async def fetch_job(self, job_id: str) -> JobAnswer:
        """A job's state now, as data; see `Client.fetch_job`."""
        return await self._cloud.run(jobs.fetch(job_id))

    async def retry_job(self, job_id: str) -> JobAnswer:
        """The new job that asks again what a failed one asked, as data.

        See `Client.retry_job`.
        """
        return await self._cloud.run(jobs.retry(job_id))

    async def retry_jobs(
        self, **filters: Unpack[RetryFilters]
    ) -> tuple[tuple[AsyncJob, ...], tuple[SkippedJob, ...]]:
        """Retry the newest jobs that match and did not complete.

        See `Client.retry_jobs`.
        """
        found = await self._cloud.run(steps.retry_jobs(filters))
        made = tuple(AsyncJob(self._cloud, one) for one in found.data)
        return made, found.skipped

    async def job_timeline(self, job_id: str) -> tuple[JobEvent, ...]:
        """What happened to a job so far, in order; see `Client.job_timeline`."""
        return await self._cloud.run(steps.timeline(job_id))

    def follow_job(self, job_id: str) -> AsyncIterator[JobEvent]:
        """What happens to a job, as it happens, until it has ended.

        See `Client.follow_job`.
        """
        return follow(self._cloud, job_id)

    async def schedule(
        self,
        prompt: str | None = None,
        *,
        cron: str,
        **options: Unpack[ScheduleOptions],
    ) -> AsyncSchedule:
        """Ask this at the times of a cron line, until it is removed.

        See `Client.schedule`.
        """
        made = await self._cloud.run(scheduling.creating(prompt, cron, options))
        return AsyncSchedule(self._cloud, made)

    async def schedules(self) -> tuple[AsyncSchedule, ...]:
        """Every schedule of your org, by name; see `Client.schedules`."""
        found = await self._cloud.run(scheduling.listing())
        return tuple(AsyncSchedule(self._cloud, one) for one in found)

    async def find_schedule(self, name_or_id: str) -> AsyncSchedule:
        """One schedule by its name or id; see `Client.find_schedule`."""
        found = await self._cloud.run(scheduling.finding(name_or_id))
        return AsyncSchedule(self._cloud, found)

    async def change_schedule(self, name_or_id: str, verb: str) -> ScheduleAnswer:
        """A schedule after ``pause`` or ``resume``, as data.

        See `Client.change_schedule`.
        """
        path = scheduling.path_of(name_or_id)
        return await self._cloud.run(scheduling.changing(path, verb))

    async def run_schedule(self, name_or_id: str) -> RunAnswer:
        """Start a run of a schedule at once; see `Client.run_schedule`."""
        return await self._cloud.run(scheduling.running(scheduling.path_of(name_or_id)))

    async def remove_schedule(self, name_or_id: str) -> None:
        """Delete a schedule; see `Client.remove_schedule`."""
        await self._cloud.run(scheduling.removing(scheduling.path_of(name_or_id)))

    async def deliveries(
        self, job: str | None = None, *, limit: int = 20
    ) -> tuple[DeliveryAnswer, ...]:
        """Webhook deliveries of the last week, newest first.

        See `Client.deliveries`.
        """
        return await self._cloud.run(steps.deliveries(job, limit))

    async def redeliver(self, delivery_id: str) -> DeliveryAnswer:
        """Tell a webhook again what it was told, or should have been.

        See `Client.redeliver`.
        """
        return await self._cloud.run(steps.redeliver(delivery_id))

    async def retention(self) -> RetentionAnswer:
        """How long your org's texts are kept; see `Client.retention`."""
        return await self._cloud.run(steps.retention())

    async def set_retention(self, hours: int | None) -> RetentionAnswer:
        """Keep texts for so many hours after a job's end.

        See `Client.set_retention`.
        """
        return await self._cloud.run(steps.set_retention(hours))
