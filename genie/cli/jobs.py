"""``genie jobs``: list, show and cancel."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Unpack

import click

from genie.answers import JobAnswer
from genie.cli.output import Session, as_json, moment, show_card, show_json, show_table
from genie.contracts.inference import JobState

if TYPE_CHECKING:
    from genie.client import Filters
    from genie.jobs import Job

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
    """List, show and cancel jobs; without a verb, list them."""
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
@as_json
@click.pass_obj
def show(session: Session, job_id: str, as_json: bool) -> None:
    """Show one job: where it went and why, and its answer or error."""
    job = session.connect().job(job_id)
    if as_json:
        show_json(job.details)
        return
    show_card(session, _card(job))
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
        ("prompt tokens", usage and usage.prompt_tokens),
        ("answer tokens", usage and usage.completion_tokens),
        ("labels", [f"{name}={value}" for name, value in details.metadata.items()]),
    ]


def _seconds(details: JobAnswer) -> float | None:
    if details.finished_at is None or details.created_at is None:
        return None
    return details.finished_at - details.created_at
