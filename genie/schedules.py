"""Questions asked again and again, at the times of a cron line."""

from typing import Literal, Protocol, cast

from genie.answers import Answer
from genie.chat import Options, chat_body

Overlap = Literal["skip", "queue", "replace"]
CatchUp = Literal["none", "last", "all"]

OWN = (
    *("name", "timezone", "overlap", "catch_up", "jitter_s", "webhook"),
    *("webhook_secret",),
)
"""Options that belong to the schedule, not to its question."""


class Webhook(Answer, frozen=True):
    """Who is told when a job ends; its secret is never shown."""

    url: str


class RunAnswer(Answer, frozen=True):
    """One run: when it was due, what became of it, and its job."""

    id: str
    status: str
    fire_at: float | None = None
    trigger: str | None = None
    reason: str | None = None
    job_id: str | None = None
    decided_at: float | None = None


class ScheduleAnswer(Answer, frozen=True):
    """A schedule as the cloud knows it; times are seconds since 1970."""

    id: str
    name: str
    cron: str
    timezone: str = "UTC"
    in_words: str | None = None
    next_runs: tuple[str, ...] = ()
    next_at: float | None = None
    paused: bool = False
    trouble: str | None = None
    request: dict[str, object] = {}
    webhook: Webhook | None = None
    overlap: str | None = None
    catch_up: str | None = None
    jitter_s: float = 0.0
    created_at: float | None = None
    runs: tuple[RunAnswer, ...] = ()


class ScheduleOptions(Options, total=False):
    """How to ask, and when and how often; each is optional."""

    name: str
    """How you call it; unique in your org. The cron line unless given."""
    timezone: str
    """Like ``Europe/Berlin``; UTC unless given."""
    overlap: Overlap
    """What a run does while the one before goes on; ``skip`` unless given."""
    catch_up: CatchUp
    """Which missed runs are made up for; ``last`` unless given."""
    jitter_s: float
    """Runs start up to so many seconds later, each by another time."""
    webhook: str
    """A URL that is told of each job's end."""
    webhook_secret: str
    """Signs what the webhook is told; at least 8 characters."""


def body(prompt: str | None, cron: str, options: ScheduleOptions) -> dict[str, object]:
    """A schedule as the cloud takes it, with only what was given.

    >>> made = body("News of {{date}}", "@daily", {"name": "news", "persona": "chat"})
    >>> made["name"], made["request"]["messages"][0]["content"]
    ('news', 'News of {{date}}')
    """
    asked = {name: value for name, value in options.items() if name not in OWN}
    request = chat_body(prompt, cast(Options, asked), mode="async")
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


class Cloud(Protocol):
    """What a schedule needs of the client that made it."""

    def fetch_schedule(self, schedule_id: str) -> ScheduleAnswer:
        """The schedule now, with its newest runs."""

    def change_schedule(self, schedule_id: str, verb: str) -> ScheduleAnswer:
        """The schedule after ``pause`` or ``resume``."""

    def run_schedule(self, schedule_id: str) -> RunAnswer:
        """A run started at once."""

    def remove_schedule(self, schedule_id: str) -> None:
        """Delete it."""


class Schedule:
    """A question asked again and again; ``details`` is what was last heard of it."""

    def __init__(self, cloud: Cloud, details: ScheduleAnswer) -> None:
        self.id, self.name = details.id, details.name
        self.details = details
        self._cloud = cloud

    def __repr__(self) -> str:
        return f"Schedule(name={self.name!r}, cron={self.details.cron!r})"

    def refresh(self) -> "Schedule":
        """Ask the cloud how it is now; returns this schedule."""
        self.details = self._cloud.fetch_schedule(self.id)
        return self

    def runs(self) -> tuple[RunAnswer, ...]:
        """Its newest runs, newest first."""
        return self.refresh().details.runs

    def run(self) -> RunAnswer:
        """Ask at once, whatever the clock says; `Client.job` finds its ``job_id``."""
        return self._cloud.run_schedule(self.id)

    def pause(self) -> "Schedule":
        """Start nothing until it is resumed; returns this schedule."""
        self.details = self._cloud.change_schedule(self.id, "pause")
        return self

    def resume(self) -> "Schedule":
        """Go on with the next run from now; returns this schedule."""
        self.details = self._cloud.change_schedule(self.id, "resume")
        return self

    def remove(self) -> None:
        """Delete it; its jobs stay."""
        self._cloud.remove_schedule(self.id)
