"""The part of the client about work that goes on without anybody: jobs, schedules."""

from collections.abc import Iterator
from typing import Unpack

from genie.api_types import JobAnswer, JobEvent
from genie.sdk import jobs
from genie.sdk import schedules as scheduling
from genie.sdk.jobs import Cloud, Job
from genie.sdk.schedules import RunAnswer, Schedule, ScheduleAnswer, ScheduleOptions
from genie.sdk.steps import work as steps
from genie.sdk.steps.work import (
    DeliveryAnswer,
    JobListFilters,
    RetentionAnswer,
    RetryFilters,
    SkippedJob,
)


class JobOperations:
    """Jobs and schedules of one cloud; `genie.Client` is one."""

    _cloud: Cloud

    def jobs(self, **filters: Unpack[JobListFilters]) -> tuple[Job, ...]:
        """Jobs of your org, newest first, one page of them.

        Raises TypeError for a filter that does not exist.

        >>> job = client.submit("Hello", persona="review").wait()
        >>> [found.id == job.id for found in client.jobs(persona="review", limit=1)]
        [True]
        """
        found = self._cloud.run(steps.jobs(filters))
        return tuple(Job(self._cloud, details) for details in found)

    def job(self, job_id: str) -> Job:
        """One job by its id, with or without the ``chatcmpl-`` prefix.

        >>> job = client.submit("Hello")
        >>> client.job(job.id).result().text
        'Hello'
        """
        return Job(self._cloud, self.fetch_job(job_id))

    def fetch_job(self, job_id: str) -> JobAnswer:
        """A job's state now, as data.

        >>> job = client.submit("Hello").wait()
        >>> client.fetch_job(job.id).status.value
        'completed'
        """
        return self._cloud.run(jobs.fetch(job_id))

    def retry_job(self, job_id: str) -> JobAnswer:
        """The new job that asks again what a failed one asked, as data.

        >>> job = client.submit("Hello " * 500).cancel()
        >>> client.retry_job(job.id).retry_of == job.id
        True
        """
        return self._cloud.run(jobs.retry(job_id))

    def retry_jobs(
        self, **filters: Unpack[RetryFilters]
    ) -> tuple[tuple[Job, ...], tuple[SkippedJob, ...]]:
        """Retry the newest jobs that match and did not complete.

        The new jobs, and those that could not be retried with the reason.

        >>> made, skipped = client.retry_jobs(state="failed", persona="review")
        >>> len(made), len(skipped)
        (0, 0)
        """
        found = self._cloud.run(steps.retry_jobs(filters))
        made = tuple(Job(self._cloud, one) for one in found.data)
        return made, found.skipped

    def job_timeline(self, job_id: str) -> tuple[JobEvent, ...]:
        """What happened to a job so far, in order.

        >>> job = client.submit("Hello").wait()
        >>> [event.event for event in client.job_timeline(job.id)][:2]
        ['accepted', 'routed']
        """
        return self._cloud.run(steps.timeline(job_id))

    def follow_job(self, job_id: str) -> Iterator[JobEvent]:
        """What happens to a job, as it happens, until it has ended; see `Job.events`.

        >>> job = client.submit("Hello")
        >>> [event.event for event in client.follow_job(job.id)][-1]
        'completed'
        """
        return jobs.follow(self._cloud, job_id)

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

        >>> news = client.schedule(
        ...     "News of {{date}}?",
        ...     cron="30 7 * * 1-5",
        ...     name="news",
        ...     timezone="Europe/Berlin",
        ... )
        >>> news.details.in_words
        'At 07:30 on Monday through Friday (Europe/Berlin)'
        >>> news.remove()
        """
        made = self._cloud.run(scheduling.creating(prompt, cron, options))
        return Schedule(self._cloud, made)

    def schedules(self) -> tuple[Schedule, ...]:
        """Every schedule of your org, by name.

        >>> client.schedules()
        ()
        """
        found = self._cloud.run(scheduling.listing())
        return tuple(Schedule(self._cloud, one) for one in found)

    def find_schedule(self, name_or_id: str) -> Schedule:
        """One schedule by its name or id; raises `NotFound`.

        >>> made = client.schedule("News?", cron="@daily", name="daily news")
        >>> client.find_schedule("daily news").details.cron
        '0 0 * * *'
        >>> made.remove()
        """
        return Schedule(self._cloud, self._cloud.run(scheduling.finding(name_or_id)))

    def change_schedule(self, name_or_id: str, verb: str) -> ScheduleAnswer:
        """A schedule after ``pause`` or ``resume``, as data.

        >>> made = client.schedule("News?", cron="@daily", name="changed")
        >>> client.change_schedule("changed", "pause").paused
        True
        >>> client.remove_schedule("changed")
        """
        path = scheduling.path_of(name_or_id)
        return self._cloud.run(scheduling.changing(path, verb))

    def run_schedule(self, name_or_id: str) -> RunAnswer:
        """Start a run of a schedule at once.

        >>> made = client.schedule("News?", cron="@daily", name="run now")
        >>> client.run_schedule("run now").status
        'started'
        >>> client.remove_schedule("run now")
        """
        return self._cloud.run(scheduling.running(scheduling.path_of(name_or_id)))

    def remove_schedule(self, name_or_id: str) -> None:
        """Delete a schedule; its jobs stay.

        >>> made = client.schedule("News?", cron="@daily", name="removed")
        >>> client.remove_schedule("removed")
        """
        self._cloud.run(scheduling.removing(scheduling.path_of(name_or_id)))

    def deliveries(
        self, job: str | None = None, *, limit: int = 20
    ) -> tuple[DeliveryAnswer, ...]:
        """Webhook deliveries of the last week, newest first.

        >>> client.deliveries(limit=5)
        ()
        """
        return self._cloud.run(steps.deliveries(job, limit))

    def redeliver(self, delivery_id: str) -> DeliveryAnswer:
        """Tell a webhook again what it was told, or should have been.

        >>> for told in client.deliveries():
        ...     if told.status == "failed":
        ...         client.redeliver(told.id)
        """
        return self._cloud.run(steps.redeliver(delivery_id))

    def retention(self) -> RetentionAnswer:
        """How long your org's texts are kept. Needs an admin key.

        >>> client.retention().kept_h
        24.0
        """
        return self._cloud.run(steps.retention())

    def set_retention(self, hours: int | None) -> RetentionAnswer:
        """Keep texts for so many hours after a job's end; None: as the cloud does.

        0 keeps nothing past its delivery. Needs an admin key.

        >>> client.set_retention(2).kept_h
        2.0
        >>> client.set_retention(None).kept_h
        24.0
        """
        return self._cloud.run(steps.set_retention(hours))


__all__ = [
    "DeliveryAnswer",
    "JobListFilters",
    "RetentionAnswer",
    "RetryFilters",
    "JobOperations",
]
