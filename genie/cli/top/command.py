"""``genie top``: the fleet as it works, on one screen, until a person leaves."""

import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from genie.api_types import FleetAnswer
from genie.cli.output import CommandSession, as_json, show_json
from genie.cli.tables import terminal_width
from genie.cli.top.frames import frame
from genie.cli.values import span
from genie.errors import GenieError, Unavailable

if TYPE_CHECKING:
    from genie.api_types import FleetAnswer
    from genie.sdk.client import Client

TICK_S = 0.1
"""How soon a key or a resized terminal is noticed."""

LEAVE = frozenset("qQ\x03\x04")
"""q, Ctrl-C and Ctrl-D."""


class FleetWatcher:
    """Reads the fleet in a thread of its own, so that keys never wait for it."""

    def __init__(self, client: "Client", *, jobs: int, every_s: float) -> None:
        self.fleet: FleetAnswer | None = None
        self.seen_at = time.monotonic()
        self.away: Unavailable | None = None
        self.fatal: GenieError | None = None
        self._client, self._jobs, self._every_s = client, jobs, every_s
        self._stop = threading.Event()

    def start(self, first: FleetAnswer) -> None:
        """Start from a first snapshot."""
        self.fleet = first
        # a daemon: quitting must not wait for an answer that hangs
        threading.Thread(target=self._run, name="genie-top", daemon=True).start()

    def stop(self) -> None:
        """Stop reading."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s) and self.fatal is None:
            self._look()

    def _look(self) -> None:
        try:
            self.fleet = self._client.fleet(jobs=self._jobs)
        except Unavailable as error:  # it may come back; the last snapshot stays
            self.away = error
        except GenieError as error:
            self.fatal = error
        else:
            self.seen_at, self.away = time.monotonic(), None


class AlternateScreen:
    """The alternate screen of a terminal; restores the terminal at its end."""

    def __init__(self, client: "Client", *, jobs: int, every_s: float) -> None:
        self._url = client.url
        self._watch = FleetWatcher(client, jobs=jobs, every_s=every_s)
        self._console = Console(file=sys.stdout, highlight=False)

    def run(self, first: FleetAnswer) -> None:
        """Draw until the person quits; raises the cloud's final refusals."""
        self._watch.start(first)
        # the terminal is restored when we are told to end, too
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        live = Live(console=self._console, screen=True, auto_refresh=False)
        try:
            with keys() as pressed, live:
                self._draw_until(pressed, live)
        except KeyboardInterrupt:
            pass  # how people quit such a screen
        finally:
            self._watch.stop()
        if self._watch.fatal is not None:
            raise self._watch.fatal

    def _draw_until(self, pressed: "KeyboardInput", live: Live) -> None:
        shown: object = None
        while self._watch.fatal is None:
            old = self._age() if self._watch.away else ""
            now = (self._watch.fleet, self._console.size, old)
            if now != shown:
                live.update(self._frame(pressed.hint), refresh=True)
                shown = now
            if LEAVE.intersection(pressed.wait(TICK_S)):
                return

    def _frame(self, hint: str) -> RenderableType:
        fleet, (width, height) = self._watch.fleet, self._console.size
        if fleet is None:
            return Text("looking …")
        away = self._watch.away
        trouble = "" if away is None else f"as of {self._age()} ago: {away.message}"
        return frame(
            fleet,
            url=self._url,
            width=width,
            height=height,
            hint=hint,
            trouble=trouble,
        )

    def _age(self) -> str:
        return span(time.monotonic() - self._watch.seen_at)


class KeyboardInput:
    """Reads keys without Enter; none where there is no keyboard."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self.hint = "Ctrl-C leaves" if descriptor is None else "q leaves"

    def wait(self, seconds: float) -> str:
        """The keys typed within ``seconds``; returns as soon as there is one."""
        if self._descriptor is None:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return ""
        # an empty read: the terminal is gone, and nobody looks any more
        return os.read(self._descriptor, 64).decode(errors="replace") or "q"


@contextmanager
def keys() -> Iterator[KeyboardInput]:
    """The keyboard, key by key; restored at the end."""
    if not sys.stdin or not sys.stdin.isatty():
        yield KeyboardInput(None)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield KeyboardInput(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


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
