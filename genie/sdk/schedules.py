"""Schedules: questions asked at the times of a cron line."""

from typing import Literal, cast

from genie.api_types import RunAnswer, ScheduleAnswer, read, read_list
from genie.sdk.chat import AskOptions, chat_body, check
from genie.sdk.jobs import Cloud
from genie.sdk.requests import Steps, delete, get, item_path, post

Overlap = Literal["skip", "queue", "replace"]
CatchUp = Literal["none", "last", "all"]

PATH = "/v1/schedules"

OWN = (
    *("name", "timezone", "overlap", "catch_up", "jitter_s", "webhook"),
    *("webhook_secret",),
)
"""Options of the schedule, not of its question."""


class ScheduleOptions(AskOptions, total=False):
    """How, when and how often to ask; each is optional."""

    name: str
    """A name, unique in your org; the cron line by default."""
    timezone: str
    """Such as ``Europe/Berlin``; UTC by default."""
    overlap: Overlap
    """What to do with a run while the previous one runs; ``skip`` by default."""
    catch_up: CatchUp
    """Which missed runs are made up for; ``last`` by default."""
    jitter_s: float
    """Each run starts a random number of seconds later, up to this many."""
    webhook: str
    """A URL that is told of each job's end."""
    webhook_secret: str
    """Signs the webhook's events; at least 8 characters."""


def body(prompt: str | None, cron: str, options: ScheduleOptions) -> dict[str, object]:
    """The JSON of a schedule, with the given options only.

    >>> made = body("News of {{date}}", "@daily", {"name": "news", "persona": "chat"})
    >>> made["name"], made["request"]["messages"][0]["content"]
    ('news', 'News of {{date}}')
    """
    asked = {name: value for name, value in options.items() if name not in OWN}
    request = chat_body(prompt, cast(AskOptions, asked), mode="async")
    del request["mode"]
    wanted: dict[str, object] = {
        "name": options.get("name") or cron,
        "cron": cron,
        "request": request,
    }
    for name in ("timezone", "overlap", "catch_up", "jitter_s"):
        if (value := options.get(name)) is not None:
            wanted[name] = value
    if url := options.get("webhook"):
        secret = options.get("webhook_secret") or ""
        wanted["webhook"] = {"url": url, "secret": secret}
    return wanted


def create(
    prompt: str | None, cron: str, options: ScheduleOptions
) -> Steps[ScheduleAnswer]:
    """Ask this at the times of a cron line."""
    check(options, ScheduleOptions)
    return read(ScheduleAnswer, (yield post(PATH, body(prompt, cron, options))))


def list_all() -> Steps[tuple[ScheduleAnswer, ...]]:
    """All schedules of the org."""
    return read_list(ScheduleAnswer, (yield get(PATH)))


def find(name_or_id: str) -> Steps[ScheduleAnswer]:
    """A schedule with its newest runs."""
    return read(ScheduleAnswer, (yield get(path_of(name_or_id))))


def start_run(path: str) -> Steps[RunAnswer]:
    """Start a run at once."""
    return read(RunAnswer, (yield post(f"{path}/run")))


def change(path: str, verb: str) -> Steps[ScheduleAnswer]:
    """``pause`` or ``resume``."""
    return read(ScheduleAnswer, (yield post(f"{path}/{verb}", safe=True)))


def remove(path: str) -> Steps[None]:
    """Delete it."""
    yield delete(path)


def path_of(name_or_id: str) -> str:
    """The path of a schedule."""
    return item_path(PATH, name_or_id)


class ScheduleSteps:
    """The verbs of a schedule as steps."""

    def __init__(self, details: ScheduleAnswer) -> None:
        self.id, self.name = details.id, details.name
        self.details = details
        self._path = path_of(self.id)

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}(name={self.name!r}, cron={self.details.cron!r})"

    def _refreshing(self) -> Steps[None]:
        """Ask for its state."""
        self.details = yield from find(self.id)

    def _changing(self, verb: str) -> Steps[None]:
        """``pause`` or ``resume``."""
        self.details = yield from change(self._path, verb)


class Schedule(ScheduleSteps):
    """A repeated question; ``details`` is its last known state.

    >>> report = client.schedule("Report of {{date}}?", cron="@daily", name="report")
    >>> report.details.timezone, len(report.details.next_runs)
    ('UTC', 3)
    >>> report.remove()
    """

    def __init__(self, cloud: Cloud, details: ScheduleAnswer) -> None:
        super().__init__(details)
        self._cloud = cloud

    def refresh(self) -> "Schedule":
        """Ask the cloud for its current state; returns this schedule.

        >>> report = client.schedule("Report?", cron="@daily", name="refreshed")
        >>> report.refresh().details.paused
        False
        >>> report.remove()
        """
        self._cloud.run(self._refreshing())
        return self

    def runs(self) -> tuple[RunAnswer, ...]:
        """Its newest runs, newest first.

        >>> report = client.schedule("Report?", cron="@daily", name="with runs")
        >>> run = report.run()
        >>> [one.trigger for one in report.runs()]
        ['manual']
        >>> report.remove()
        """
        return self.refresh().details.runs

    def run(self) -> RunAnswer:
        """Ask at once, whatever the clock says; `Client.job` finds its ``job_id``.

        >>> report = client.schedule("Report?", cron="@daily", name="at once")
        >>> client.job(report.run().job_id).result().text
        'Report?'
        >>> report.remove()
        """
        return self._cloud.run(start_run(self._path))

    def pause(self) -> "Schedule":
        """Start no runs until it is resumed; returns this schedule.

        >>> report = client.schedule("Report?", cron="@daily", name="paused")
        >>> report.pause().details.paused
        True
        >>> report.remove()
        """
        self._cloud.run(self._changing("pause"))
        return self

    def resume(self) -> "Schedule":
        """Continue with the next run from now; returns this schedule.

        >>> report = client.schedule("Report?", cron="@daily", name="resumed").pause()
        >>> report.resume().details.paused
        False
        >>> report.remove()
        """
        self._cloud.run(self._changing("resume"))
        return self

    def remove(self) -> None:
        """Delete it; its jobs stay.

        >>> client.schedule("Report?", cron="@daily", name="gone").remove()
        """
        self._cloud.run(remove(self._path))
