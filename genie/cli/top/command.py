"""``genie top``: the fleet at work, live on one screen."""

import sys
from typing import TYPE_CHECKING

import click

from genie.cli.output import CommandSession, as_json, show_json
from genie.cli.tables import terminal_width

if TYPE_CHECKING:
    from genie.api_types import FleetAnswer

PLAIN_WIDTH = 120
"""The width of a frame in a pipe."""

EVERY_S = click.FloatRange(0.5, 60)
JOBS = 40
"""Jobs to read: as many as the tallest terminals show."""


@click.command()
@click.option("--once", is_flag=True, help="Print one frame and exit.")
@click.option(
    "--every",
    "every_s",
    type=EVERY_S,
    default=2.0,
    show_default=True,
    help="Seconds between refreshes.",
)
@as_json
@click.pass_obj
def top(session: CommandSession, once: bool, every_s: float, as_json: bool) -> None:
    """Watch the fleet work: machines, models, queues, jobs and where work goes.

    q or Ctrl-C quits. In a pipe, and with --once, one whole frame is printed; --json
    prints the snapshot behind it. Needs an admin key.
    """
    client = session.connect()
    first = client.fleet(jobs=JOBS)
    if as_json:
        show_json(first)
    elif once or not session.is_terminal():
        _print(first, client.url)
    else:
        from genie.cli.top.live import AlternateScreen

        AlternateScreen(client, jobs=JOBS, every_s=every_s).run(first)


def _print(fleet: "FleetAnswer", url: str) -> None:
    from rich.console import Console

    from genie.cli.top.frames import frame

    width = terminal_width(PLAIN_WIDTH)
    console = Console(file=sys.stdout, highlight=False, width=width)
    with console.capture() as drawn:
        console.print(frame(fleet, url=url, width=width))
    for line in drawn.get().splitlines():
        click.echo(line.rstrip())
