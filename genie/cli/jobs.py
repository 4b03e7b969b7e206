"""``genie jobs``: list, show, wait, follow, retry, cancel, retention."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Unpack

import click

from genie.api_types import ChatCompletion, JobAnswer, TextCompletion
from genie.cli import hints
from genie.cli.ask import show_result
from genie.cli.output import (
    CommandSession,
    F,
    ListGroup,
    as_json,
    detaching,
    note,
    show_card,
    show_done,
    show_json,
    show_list,
    show_table,
)
from genie.cli.values import DisplayValue, age, cell, took, when
from genie.contracts.inference import JobState
from genie.sdk.jobs import strip_job_id_prefix

if TYPE_CHECKING:
    from genie.api_types import JobEvent
    from genie.sdk.client import Client
    from genie.sdk.jobs import Job
    from genie.sdk.verbs import JobListFilters, RetryFilters

EVENT_COLUMNS = ("when", "after", "event", "attempt", "where", "why")
COLUMNS: dict[str, Callable[["Job"], object]] = {
    "job": lambda job: job.id,
    "status": lambda job: job.status.value,
    "persona": lambda job: job.details.persona,
    "model": lambda job: job.details.model,
    "worker": lambda job: job.details.worker,
    "age": lambda job: age(job.details.created_at),
    "took": lambda job: _took(job.details),
}
NONE = 'no jobs; `genie submit "…"` makes one'

STATES = click.Choice([state.value for state in JobState])
RETRIED = click.Choice(["failed", "timeout", "cancelled"])
PAGE = click.IntRange(1, 200)
MOST = "How many to list, at most."

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class SinceParam(click.ParamType[float]):
    """A time: how long ago (30m, 2h, 7d), or an ISO date and time."""

    name = "when"

    def convert(
        self,
        value: object,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """The moment in seconds since 1970."""
        try:
            return since(str(value), datetime.now(UTC))
        except ValueError:
            self.fail(f"{value!r} is not a time; use 30m, 2h, 7d or 2030-12-31", param)


def since(text: str, now: datetime) -> float:
    """``text`` in seconds since 1970; raises ValueError if it is no time.

    >>> since("2h", datetime.fromtimestamp(10_000, UTC))
    2800.0
    """
    if text[-1:] in UNITS and text[:-1].isdigit():
        ago = timedelta(**{UNITS[text[-1]]: int(text[:-1])})
        return (now - ago).timestamp()
    return datetime.fromisoformat(text).astimezone().timestamp()


FILTERS = (
    click.option(
        "-p", "--persona", shell_complete=hints.persona, help="Only this kind of work."
    ),
    click.option("-m", "--model", shell_complete=hints.model, help="Only this model."),
    click.option("--label", help="Only jobs submitted with this label."),
    click.option(
        "-w",
        "--worker",
        shell_complete=hints.worker,
        help="Only this worker, by name or id.",
    ),
    click.option(
        "--since", type=SinceParam(), help="Only after this: 30m, 2h, 7d or a date."
    ),
)


def filters(command: F) -> F:
    """Give a command the options that choose jobs."""
    for option in reversed(FILTERS):
        command = option(command)
    return command


@click.group(cls=ListGroup)
def jobs() -> None:
    """List, show, follow, retry and cancel jobs; without a verb, list them.

    The options of `list` work without the verb: `genie jobs --state failed`.
    """


@jobs.command("list")
@click.option("--state", type=STATES, help="Only jobs in this state.")
@filters
@click.option("--limit", type=PAGE, default=20, show_default=True, help=MOST)
@click.option(
    "--after", metavar="JOB", shell_complete=hints.job, help="List jobs after this one."
)
@as_json
@click.pass_obj
def list_jobs(
    session: CommandSession, as_json: bool, **wanted: Unpack["JobListFilters"]
) -> None:
    """List your org's jobs, newest first."""
    found = session.connect().jobs(**wanted)
    data, spare = [job.details for job in found], ("worker", "took")
    show_list(session, as_json, found, COLUMNS, data=data, spare=spare, none=NONE)


@jobs.command()
@click.argument("job_id", metavar="JOB", shell_complete=hints.job)
@click.option("--timeline", is_flag=True, help="Show its timeline too.")
@as_json
@click.pass_obj
def show(session: CommandSession, job_id: str, timeline: bool, as_json: bool) -> None:
    """Show a job: where it went and why, and its answer or error."""
    client = session.connect()
    job = client.job(job_id)
    events = client.job_timeline(job_id) if timeline else ()
    if as_json:
        whole = {"job": job.details, "timeline": events}
        show_json(whole if timeline else job.details)
        return
    show_card(session, _card(job))
    if timeline:
        click.echo()
        rows = [_event(event, events[0].at) for event in events]
        show_table(session, EVENT_COLUMNS, rows, spare=("when",))
    for text in _texts(job.details):
        click.echo(f"\n{text}")


@jobs.command()
@click.argument("job_id", metavar="JOB", shell_complete=hints.job)
@click.option("--timeout", type=click.FloatRange(min=0), help="Time limit in seconds.")
@as_json
@click.pass_obj
def wait(
    session: CommandSession, job_id: str, timeout: float | None, as_json: bool
) -> None:
    """Wait for a job and print its answer.

    The exit code is 1 without an answer. Ctrl-C stops the waiting, not the job.
    """
    job = session.connect().job(job_id)
    with detaching(f"job {job.id}", f"genie jobs wait {job.id}"):
        show_result(session, job.result(timeout), as_json)


@jobs.command()
@click.argument(
    "job_ids", metavar="JOB...", shell_complete=hints.job, nargs=-1, required=True
)
@as_json
@click.pass_obj
def cancel(session: CommandSession, job_ids: tuple[str, ...], as_json: bool) -> None:
    """Cancel jobs; ended jobs stay as they are."""
    client = session.connect()
    for job_id in job_ids:
        job = client.job(job_id).cancel()
        show_done(session, as_json, job.details, (job.id, job.status.value))


@jobs.command()
@click.argument("job_id", metavar="JOB", shell_complete=hints.job)
@as_json
@click.pass_obj
def events(session: CommandSession, job_id: str, as_json: bool) -> None:
    """Follow a job's events until it has ended.

    Ctrl-C stops the following, not the job.
    """
    with detaching(f"job {job_id}", f"genie jobs events {job_id}"):
        began: float | None = None
        for event in session.connect().follow_job(job_id):
            began = event.at if began is None else began
            row = _event(event, began)
            shown = _aligned(row) if session.is_terminal() else row
            show_done(session, as_json, event, shown)


@jobs.command()
@click.argument("job_ids", metavar="[JOB...]", shell_complete=hints.job, nargs=-1)
@click.option(
    "--all", "is_all", is_flag=True, help="Retry all jobs that match the options."
)
@click.option(
    "--state", type=RETRIED, help="With --all: failed and timeout by default."
)
@filters
@click.option("--limit", type=PAGE, default=100, show_default=True, help=MOST)
@as_json
@click.pass_obj
def retry(
    session: CommandSession,
    job_ids: tuple[str, ...],
    is_all: bool,
    as_json: bool,
    **wanted: Unpack["RetryFilters"],
) -> None:
    """Submit unsuccessful jobs again, as new jobs.

    Prints the old and the new id of each. With --all, every job that failed or timed
    out and matches the options.
    """
    if bool(job_ids) == is_all:
        raise click.UsageError("name the jobs, or give --all and filters")
    client = session.connect()
    for job_id in job_ids:
        job = client.retry_job(job_id)
        show_done(session, as_json, job, (job_id, strip_job_id_prefix(job.id)))
    if is_all:
        _retry_all(session, client, wanted, as_json)


@jobs.command()
@click.argument("hours", required=False)
@as_json
@click.pass_obj
def retention(session: CommandSession, hours: str | None, as_json: bool) -> None:
    """Show or set how many HOURS texts are kept.

    They count from a job's end. 0 keeps nothing after delivery; `default` uses
    the cloud's setting. Needs an admin key.
    """
    if hours is not None and hours != "default" and not hours.isdecimal():
        raise click.UsageError("hours must be a whole number, or default")
    client = session.connect()
    if hours is None:
        found = client.retention()
    else:
        found = client.set_retention(None if hours == "default" else int(hours))
    show_json(found) if as_json else click.echo(f"{found.kept_h:g} hours")


def _retry_all(
    session: CommandSession, client: "Client", filters: "RetryFilters", as_json: bool
) -> None:
    made, skipped = client.retry_jobs(**filters)
    for job in made:
        show_done(session, as_json, job.details, (job.details.retry_of, job.id))
    for one in skipped:
        note(f"genie: {one.id} was skipped: {one.why}")
    if not made and not skipped:
        note("genie: no job matches; `genie jobs --state failed` lists what failed")


def _aligned(row: tuple[object, ...]) -> tuple[object, ...]:
    """An event for a person: lines come one by one, so column widths are fixed."""
    at, after, event, attempt, *told = row
    nth = f"#{attempt}" if attempt else ""
    return (at, f"{cell(after):>7}", f"{cell(event):<11}", f"{nth:<2}", *told)


def _event(event: "JobEvent", began: float) -> tuple[object, ...]:
    told = [*event.reasons, event.error and event.error.message]
    return (
        when(event.at),
        took(max(0.0, event.at - began)),
        DisplayValue(person=event.event.replace("_", " "), script=event.event),
        event.attempt or event.attempts,
        event.worker or event.model or event.queue,
        "; ".join(part for part in told if part),
    )


def _card(job: "Job") -> list[tuple[str, object]]:
    details, route = job.details, job.details.route
    usage, error = details.usage, details.error
    return [
        ("job", job.id),
        ("status", job.status.value),
        ("error", error and f"{error.code}: {error.message}"),
        ("mode", details.mode),
        ("persona", details.persona),
        ("model", details.model),
        ("instead of", details.model_substituted),
        ("worker", details.worker),
        ("locality", details.locality and details.locality.value),
        ("queue", route.queue),
        ("because", route.reasons),
        ("skipped", [f"{s.model} ({s.why})" for s in route.skipped]),
        ("created", when(details.created_at)),
        ("started", when(details.started_at)),
        ("finished", when(details.finished_at)),
        ("deadline", when(details.deadline_at)),
        ("took", _took(details)),
        ("attempts", details.attempts or None),
        ("retry of", details.retry_of),
        ("prompt tokens", usage and usage.prompt_tokens),
        ("answer tokens", usage and usage.completion_tokens),
        ("label", details.label),
        ("metadata", [f"{name}={value}" for name, value in details.metadata.items()]),
    ]


def _texts(details: JobAnswer) -> list[str | None]:
    if isinstance(details.result, ChatCompletion):
        return [choice.message.content for choice in details.result.choices]
    if isinstance(details.result, TextCompletion):
        return [choice.text for choice in details.result.choices]
    return []


def _took(details: JobAnswer) -> DisplayValue | None:
    if details.finished_at is None or details.created_at is None:
        return None
    return took(details.finished_at - details.created_at)
