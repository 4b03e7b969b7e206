"""``genie schedule``: add, list, show, run, pause, resume and rm."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Unpack, cast

import click

from genie.cli import hints
from genie.cli.ask import asking, joined
from genie.cli.output import (
    CommandSession,
    ListGroup,
    as_json,
    show_card,
    show_done,
    show_json,
    show_list,
    show_table,
)
from genie.cli.values import when

if TYPE_CHECKING:
    from genie.api_types import RunAnswer
    from genie.sdk.schedules import Schedule, ScheduleOptions

COLUMNS: dict[str, Callable[["Schedule"], object]] = {
    "schedule": lambda one: one.name,
    "cron": lambda one: one.details.cron,
    "timezone": lambda one: one.details.timezone,
    "next run": lambda one: _first(one.details.next_runs),
    "state": lambda one: "paused" if one.details.paused else "active",
    "trouble": lambda one: one.details.trouble,
}
NONE = "no schedules; `genie schedule add NAME CRON PROMPT` makes one"
RUN_COLUMNS = ("due", "status", "trigger", "job", "reason")

OVERLAP = click.Choice(["skip", "queue", "replace"])
CATCH_UP = click.Choice(["none", "last", "all"])


@click.group(cls=ListGroup)
def schedule() -> None:
    """Ask questions at the times of a cron line; without a verb, list schedules."""


@schedule.command()
@click.argument("called", metavar="NAME")
@click.argument("cron")
@asking
@click.option("--timezone", help="Such as Europe/Berlin; UTC by default.")
@click.option(
    "--overlap", type=OVERLAP, help="While the previous run goes on; skip by default."
)
@click.option(
    "--catch-up", type=CATCH_UP, help="Missed runs to make up for; last by default."
)
@click.option(
    "--jitter", "jitter_s", type=float, help="Start up to this many seconds later."
)
@click.option("--webhook", help="A URL that is called when a job ends.")
@click.option("--webhook-secret", envvar="GENIE_WEBHOOK_SECRET", help="Signs it.")
@as_json
@click.pass_obj
def add(
    session: CommandSession,
    called: str,
    cron: str,
    prompt: str | None,
    as_json: bool,
    **options: Unpack["ScheduleOptions"],
) -> None:
    """Ask PROMPT at the times of CRON; the schedule is called NAME.

    genie schedule add news '30 7 * * 1-5' 'News of {{date}}?' -p chat

    Texts may contain {{date}} {{time}} {{weekday}} {{week}} {{month}} {{year}}
    {{yesterday}} {{tomorrow}} {{fire_at}} {{now}} {{schedule}}.
    """
    kept = {key: value for key, value in options.items() if value not in (None, ())}
    kept["name"] = called
    wanted = cast("ScheduleOptions", kept)
    made = session.connect().schedule(joined(prompt), cron=cron, **wanted)
    _show(session, made, as_json)


@schedule.command("list")
@as_json
@click.pass_obj
def list_schedules(session: CommandSession, as_json: bool) -> None:
    """List your org's schedules and their next run."""
    found = session.connect().schedules()
    data, spare = [one.details for one in found], ("timezone", "cron")
    show_list(session, as_json, found, COLUMNS, data=data, spare=spare, none=NONE)


@schedule.command()
@click.argument("name", shell_complete=hints.schedule)
@as_json
@click.pass_obj
def show(session: CommandSession, name: str, as_json: bool) -> None:
    """Show when a schedule runs, in words, and its newest runs."""
    _show(session, session.connect().find_schedule(name), as_json)


@schedule.command()
@click.argument("name", shell_complete=hints.schedule)
@as_json
@click.pass_obj
def run(session: CommandSession, name: str, as_json: bool) -> None:
    """Start a run at once and print its job's id."""
    started = session.connect().run_schedule(name)
    show_json(started) if as_json else click.echo(started.job_id)


@schedule.command()
@click.argument("name", shell_complete=hints.schedule)
@as_json
@click.pass_obj
def pause(session: CommandSession, name: str, as_json: bool) -> None:
    """Start no runs until it is resumed."""
    details = session.connect().change_schedule(name, "pause")
    show_done(session, as_json, details, (name, "paused"))


@schedule.command()
@click.argument("name", shell_complete=hints.schedule)
@as_json
@click.pass_obj
def resume(session: CommandSession, name: str, as_json: bool) -> None:
    """Continue with the next run from now."""
    details = session.connect().change_schedule(name, "resume")
    show_done(session, as_json, details, (name, _first(details.next_runs)))


@schedule.command()
@click.argument(
    "names", metavar="NAME...", shell_complete=hints.schedule, nargs=-1, required=True
)
@as_json
@click.pass_obj
def rm(session: CommandSession, names: tuple[str, ...], as_json: bool) -> None:
    """Remove schedules; their jobs stay."""
    client = session.connect()
    for name in names:
        client.remove_schedule(name)
        removed = {"name": name, "removed": True}
        show_done(session, as_json, removed, (name, "removed"))


def _show(session: CommandSession, made: "Schedule", as_json: bool) -> None:
    details = made.details
    if as_json:
        show_json(details)
        return
    show_card(session, _card(made))
    if details.runs:
        click.echo()
        show_table(session, RUN_COLUMNS, [_run(one) for one in details.runs])


def _card(made: "Schedule") -> list[tuple[str, object]]:
    details = made.details
    return [
        ("schedule", made.name),
        ("id", made.id),
        ("runs", details.in_words),
        ("next", details.next_runs),
        ("state", "paused" if details.paused else "active"),
        ("trouble", details.trouble),
        ("cron", details.cron),
        ("timezone", details.timezone),
        ("overlap", details.overlap),
        ("catch-up", details.catch_up),
        ("jitter", f"{details.jitter_s:g} s" if details.jitter_s else None),
        ("webhook", details.webhook and details.webhook.url),
        ("created", when(details.created_at)),
    ]


def _run(one: "RunAnswer") -> tuple[object, ...]:
    return (when(one.fire_at), one.status, one.trigger, one.job_id, one.reason)


def _first(runs: tuple[str, ...]) -> str:
    return runs[0] if runs else ""
