"""``genie jobs``: list, show, follow, retry and cancel; how long texts are kept."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Unpack

import click

from genie.answers import JobAnswer
from genie.cli.output import (
    Session,
    as_json,
    cell,
    moment,
    note,
    show_card,
    show_json,
    show_table,
)
from genie.contracts.inference import JobState

if TYPE_CHECKING:
    from genie.answers import JobEvent
    from genie.client import Filters
    from genie.jobs import Job
    from genie.work import RetryFilters

EVENT_COLUMNS = ("when", "event", "attempt", "where", "why")
COLUMNS = ("job", "status", "persona", "model", "worker", "created", "seconds")

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Since(click.ParamType[float]):
    """A moment: how long ago (30m, 2h, 7d) or a date and time in ISO form."""

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
            self.fail(f"{value!r} is no moment; use 30m, 2h, 7d or 2030-12-31", param)


def since(text: str, now: datetime) -> float:
    """``text`` in seconds since 1970; raises ValueError for what is no moment.

    >>> since("2h", datetime.fromtimestamp(10_000, UTC))
    2800.0
    """
    if text[-1:] in UNITS and text[:-1].isdigit():
        ago = timedelta(**{UNITS[text[-1]]: int(text[:-1])})
        return (now - ago).timestamp()
    return datetime.fromisoformat(text).astimezone().timestamp()


@click.group(invoke_without_command=True)
@click.pass_context
def jobs(ctx: click.Context) -> None:
    """List, show, follow, retry and cancel jobs; without a verb, list them."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_jobs)


@jobs.command("list")
@click.option("--state", type=click.Choice([state.value for state in JobState]))
@click.option("-p", "--persona", help="Only this kind of work.")
@click.option("-m", "--model", help="Only this model.")
@click.option("-w", "--worker", help="Only this worker, by name or id.")
@click.option("--since", type=Since(), help="Only newer: 30m, 2h, 7d or a date.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True)
@click.option("--after", metavar="JOB", help="Go on after this job.")
@as_json
@click.pass_obj
def list_jobs(session: Session, as_json: bool, **filters: Unpack["Filters"]) -> None:
    """List your org's jobs, newest first."""
    found = session.connect().jobs(**filters)
    if as_json:
        show_json([job.details for job in found])
        return
    show_table(session, COLUMNS, [_row(job) for job in found])


@jobs.command()
@click.argument("job_id", metavar="JOB")
@click.option("--timeline", is_flag=True, help="Also what happened when.")
@as_json
@click.pass_obj
def show(session: Session, job_id: str, timeline: bool, as_json: bool) -> None:
    """Show one job: where it went and why, and its answer or error."""
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
        show_table(session, EVENT_COLUMNS, [_event(event) for event in events])
    choices = job.details.result.choices if job.details.result else ()
    for choice in choices:
        click.echo(f"\n{choice.message.content if choice.message else choice.text}")


@jobs.command()
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@click.pass_obj
def cancel(session: Session, job_ids: tuple[str, ...]) -> None:
    """Cancel jobs; one that has ended stays as it is."""
    client = session.connect()
    for job_id in job_ids:
        job = client.job(job_id).cancel()
        click.echo(f"{job.id}\t{job.status.value}")


@jobs.command()
@click.argument("job_id", metavar="JOB")
@as_json
@click.pass_obj
def events(session: Session, job_id: str, as_json: bool) -> None:
    """Follow what happens to a job until it has ended."""
    for event in session.connect().follow_job(job_id):
        if as_json:
            show_json(event)
        else:
            click.echo("\t".join(map(cell, _event(event))).rstrip())


@jobs.command()
@click.argument("job_ids", metavar="[JOB...]", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="All that match the options.")
@click.option("--state", type=click.Choice(["failed", "timeout", "cancelled"]))
@click.option("-p", "--persona", help="Only this kind of work.")
@click.option("-m", "--model", help="Only this model.")
@click.option("-w", "--worker", help="Only this worker, by name or id.")
@click.option("--since", type=Since(), help="Only newer: 30m, 2h, 7d or a date.")
@click.option("--limit", type=click.IntRange(1, 200), default=100, show_default=True)
@click.pass_obj
def retry(
    session: Session,
    job_ids: tuple[str, ...],
    is_all: bool,
    **filters: Unpack["RetryFilters"],
) -> None:
    """Submit jobs that did not complete again, as new jobs.

    Prints the old and the new id of each. With --all every job that failed or timed
    out and matches the options.
    """
    if bool(job_ids) == is_all:
        raise click.UsageError("name the jobs, or give --all and what they match")
    client = session.connect()
    for job_id in job_ids:
        click.echo(f"{job_id}\t{client.retry_job(job_id).id}")
    if is_all:
        made, skipped = client.retry_jobs(**filters)
        for job in made:
            click.echo(f"{job.details.retry_of}\t{job.id}")
        for one in skipped:
            note(f"genie: {one.id} was left: {one.why}")


@jobs.command()
@click.argument("hours", required=False)
@as_json
@click.pass_obj
def retention(session: Session, hours: str | None, as_json: bool) -> None:
    """Show or set for how many HOURS texts are kept after a job's end.

    0 keeps nothing past its delivery; `default` keeps them as the cloud does. Needs
    an admin key.
    """
    if hours is not None and hours != "default" and not hours.isdecimal():
        raise click.UsageError("hours is a whole number, or default")
    client = session.connect()
    if hours is None:
        found = client.retention()
    else:
        found = client.set_retention(None if hours == "default" else int(hours))
    show_json(found) if as_json else click.echo(f"{found.kept_h:g} hours")


def _event(event: "JobEvent") -> tuple[object, ...]:
    told = [*event.reasons, event.error and event.error.message]
    return (
        moment(event.at),
        event.event,
        event.attempt or event.attempts,
        event.worker or event.model or event.queue,
        "; ".join(part for part in told if part),
    )


def _row(job: "Job") -> tuple[object, ...]:
    details = job.details
    return (
        job.id,
        job.status.value,
        details.persona,
        details.model,
        details.worker,
        moment(details.created_at),
        _seconds(details),
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
        ("queue", route and route.queue),
        ("because", route and "; ".join(route.reasons)),
        ("skipped", route and [f"{s.model} ({s.why})" for s in route.skipped]),
        ("created", moment(details.created_at)),
        ("started", moment(details.started_at)),
        ("finished", moment(details.finished_at)),
        ("deadline", moment(details.deadline_at)),
        ("seconds", _seconds(details)),
        ("attempts", details.attempts or None),
        ("retry of", details.retry_of),
        ("prompt tokens", usage and usage.prompt_tokens),
        ("answer tokens", usage and usage.completion_tokens),
        ("labels", [f"{name}={value}" for name, value in details.metadata.items()]),
    ]


def _seconds(details: JobAnswer) -> float | None:
    if details.finished_at is None or details.created_at is None:
        return None
    return details.finished_at - details.created_at
