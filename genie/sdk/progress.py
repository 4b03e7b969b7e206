"""Shows progress as a bar on a terminal. rich is loaded only to show one."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from genie import env


class ProgressBar:
    """A bar that shows nothing, where nobody looks."""

    def advance(self) -> None:
        """Count one more."""

    def at(self, done: int, total: int | None) -> None:
        """Set how many are done."""


@contextmanager
def bar(title: str, total: int | None, wanted: bool | None) -> Iterator[ProgressBar]:
    """A bar on standard error during the ``with`` block, on a terminal only.

    ``wanted`` None: as ``GENIE_PROGRESS`` says. Nothing is shown where standard
    error is no terminal.
    """
    is_wanted = env.read(env.ClientSettings).progress if wanted is None else wanted
    if not is_wanted or not sys.stderr.isatty():
        yield ProgressBar()
        return
    with _rich(title, total) as shown:
        yield shown


@contextmanager
def _rich(title: str, total: int | None) -> Iterator[ProgressBar]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), Elapsed())
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # otherwise prints would leave their file
    ) as progress:
        task = progress.add_task(title, total=total)

        class Shown(ProgressBar):
            def advance(self) -> None:
                progress.advance(task)

            def at(self, done: int, total: int | None) -> None:
                progress.update(task, completed=done, total=total)

        yield Shown()
