"""Schedules: questions asked at the times of a cron line."""

from typing import Literal, Self, cast

from genie.api_types import RunAnswer, ScheduleAnswer, read
from genie.sdk.chat import AskOptions, chat_body, check
from genie.sdk.methods import C, Cloud, OnCloud, self_verb, verb
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
    check(options, ScheduleOptions)
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


def find(name_or_id: str) -> Steps[ScheduleAnswer]:
    """A schedule with its newest runs."""
    return read(ScheduleAnswer, (yield get(item_path(PATH, name_or_id))))


def start_run(name_or_id: str) -> Steps[RunAnswer]:
    """Start a run at once."""
    return read(RunAnswer, (yield post(f"{item_path(PATH, name_or_id)}/run")))


def change(name_or_id: str, verb: str) -> Steps[ScheduleAnswer]:
    """``pause`` or ``resume``."""
    call = post(f"{item_path(PATH, name_or_id)}/{verb}", safe=True)
    return read(ScheduleAnswer, (yield call))


def remove(name_or_id: str) -> Steps[None]:
    """Delete it."""
    yield delete(item_path(PATH, name_or_id))


class ScheduleVerbs(OnCloud[C]):
    """The verbs of a schedule; see `Schedule`."""

    def __init__(self, cloud: C, details: ScheduleAnswer) -> None:
        super().__init__(cloud)
        self.id, self.name = details.id, details.name
        self.details = details

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}(name={self.name!r}, cron={self.details.cron!r})"

    @self_verb
    def refresh(self) -> Steps[Self]:
        """Ask the cloud for its current state; returns this schedule.

        >>> report = client.schedule("Report?", cron="@daily", name="refreshed")
        >>> report.refresh().details.paused
        False
        >>> report.remove()
        """
        self.details = yield from find(self.id)
        return self

    @verb
    def runs(self) -> Steps[tuple[RunAnswer, ...]]:
        """Its newest runs, newest first.

        >>> report = client.schedule("Report?", cron="@daily", name="with runs")
        >>> run = report.run()
        >>> [one.trigger for one in report.runs()]
        ['manual']
        >>> report.remove()
        """
        self.details = yield from find(self.id)
        return self.details.runs

    @verb
    def run(self) -> Steps[RunAnswer]:
        """Ask at once, whatever the clock says; `Client.job` finds its ``job_id``.

        >>> report = client.schedule("Report?", cron="@daily", name="at once")
        >>> client.job(report.run().job_id).result().text
        'Report?'
        >>> report.remove()
        """
        return start_run(self.id)

    @self_verb
    def pause(self) -> Steps[Self]:
        """Start no runs until it is resumed; returns this schedule.

        >>> report = client.schedule("Report?", cron="@daily", name="paused")
        >>> report.pause().details.paused
        True
        >>> report.remove()
        """
        self.details = yield from change(self.id, "pause")
        return self

    @self_verb
    def resume(self) -> Steps[Self]:
        """Continue with the next run from now; returns this schedule.

        >>> report = client.schedule("Report?", cron="@daily", name="resumed").pause()
        >>> report.resume().details.paused
        False
        >>> report.remove()
        """
        self.details = yield from change(self.id, "resume")
        return self

    @verb
    def remove(self) -> Steps[None]:
        """Delete it; its jobs stay.

        >>> client.schedule("Report?", cron="@daily", name="gone").remove()
        """
        return remove(self.id)


class Schedule(ScheduleVerbs[Cloud]):
    """A repeated question; ``details`` is its last known state.

    >>> report = client.schedule("Report of {{date}}?", cron="@daily", name="report")
    >>> report.details.timezone, len(report.details.next_runs)
    ('UTC', 3)
    >>> report.remove()
    """
