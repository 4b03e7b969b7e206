"""``genie up``: a whole fleet on this machine, in one process."""

import signal
import threading
from pathlib import Path
from types import FrameType

import click

from genie import catalog, env, logs
from genie.cli.output import note

DEFAULT_PORT = 8470
PORTS = click.IntRange(1, 65_535)

port = click.option(
    "--port",
    type=PORTS,
    default=DEFAULT_PORT,
    show_default=True,
    help="Port of the API and pages.",
)


@click.command()
@port
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
)
@click.option(
    "--catalog",
    "catalog_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Catalog file instead of the shipped one.",
)
@click.option("--echo", is_flag=True, help="Serve the weightless echo models.")
@click.option("--verbose", is_flag=True, help="Show logs.")
def up(
    port: int, host: str, catalog_file: Path | None, echo: bool, verbose: bool
) -> None:
    """Start a whole fleet on this machine: cloud, queue and one worker.

    SQLite and an in-memory queue: nothing to install. Other machines cannot join this
    fleet; production runs the same parts as processes (see the README).
    """
    from genie.cli.embedded import EmbeddedFleet, EmbeddedFleetOptions

    logs.configure(level="INFO" if verbose else "WARNING")
    stop = stop_on_signals()
    options = EmbeddedFleetOptions(
        home=env.read(env.ClientSettings).home,
        host=host,
        port=port,
        catalog_path=catalog.ECHO if echo else catalog_file or catalog.SHIPPED,
    )
    with EmbeddedFleet(options) as fleet:
        note(f"Genie Fleet is up at {fleet.url}")
        note(f"  key    {fleet.api_key}")
        note(f"  pages  {fleet.url}/admin/  (sign in with the key)")
        note('  try    genie ask "What is a GPU?"        (in another terminal)')
        note("Ctrl-C stops it.")
        stop.wait()
        note("stopping …")


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set; a second one ends the process at once."""
    stop = threading.Event()

    def ask_to_stop(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise SystemExit(128 + number)
        stop.set()

    for wanted in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wanted, ask_to_stop)
    return stop
