"""The ``genie`` command: its commands, and the exit code of each failure.

Exit codes
    0  done
    1  the work failed, or a check did
    2  wrong usage or settings
    3  the cloud cannot be reached or has no capacity now
    4  no valid key, or a key that may not do this
    5  no such model, persona, job …
    130  stopped with Ctrl-C
    141  whoever read our output went away, as `head` does
"""

import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn, cast

import click
from click.exceptions import NoArgsIsHelpError
from click.shell_completion import CompletionItem

from genie import __version__, errors
from genie.cli.output import CommandSession, note
from genie.errors import GenieError

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("genie.cli.up:up", "Start a whole fleet on this machine."),
    "demo": ("genie.cli.demo:demo", "Start a fleet and watch it work."),
    "top": ("genie.cli.top:top", "Watch the fleet work, on one screen."),
    "ask": ("genie.cli.ask:ask", "Ask a question and print the answer."),
    "submit": ("genie.cli.ask:submit", "Submit a question as a job."),
    "jobs": ("genie.cli.jobs:jobs", "List, show, follow, retry and cancel jobs."),
    "batch": ("genie.cli.batch:batch", "Run many requests from one file."),
    "schedule": ("genie.cli.schedule:schedule", "Ask questions on a schedule."),
    "models": ("genie.cli.models:models", "List the catalog's models."),
    "personas": ("genie.cli.models:personas", "List the personas and their models."),
    "route": ("genie.cli.ask:route", "Show where a question would go, and why."),
    "workers": ("genie.cli.fleet:workers", "List the fleet's workers."),
    "queues": ("genie.cli.fleet:queues", "List the queues and their depth."),
    "dead-letters": (
        "genie.cli.dead_letters:dead_letters",
        "List, replay and discard dead letters.",
    ),
    "worker": ("genie.cli.worker:worker", "Add this machine to a fleet."),
    "keys": ("genie.cli.keys:keys", "List, create and revoke API keys."),
    "web": ("genie.cli.up:web", "Serve the API and the pages, in production."),
    "db": ("genie.cli.db:db", "Manage the cloud's database schema."),
    "completion": (
        "genie.cli.completion:completion",
        "Let your shell complete commands, models and ids.",
    ),
    "doctor": ("genie.cli.doctor:doctor", "Check this machine and the cloud."),
}
"""Each command's module and line of help, so that help imports no command."""

EXIT_CODES: tuple[tuple[type[GenieError], int], ...] = (
    (errors.Unauthorized, 4),
    (errors.Forbidden, 4),
    (errors.NotFound, 5),
    (errors.Unavailable, 3),
    (errors.RateLimited, 3),
    (errors.BadRequest, 2),
    (errors.SettingsError, 2),
    (errors.CatalogError, 2),
)
"""The first match wins; any other error of ours is 1."""

READER_GONE = 141
"""What a shell reports for a program that a closed pipe ended."""

LONGEST_USAGE = 200
"""The longest message about wrong usage: click may repeat all arguments."""

EPILOG = (
    "Exit codes: 0 done, 1 the work failed, 2 wrong usage or settings, 3 the cloud "
    "cannot be reached or has no capacity, 4 no valid key, 5 not found, "
    "130 stopped with Ctrl-C, 141 the reader of our output went away."
)


class LazyGroup(click.Group):
    """A group that imports a command when it runs, and uses our exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of ``COMMANDS``."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None when there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """The list of commands, importing none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of ``args``; an unknown name gets a suggestion."""
        is_name = bool(args) and not args[0].startswith("-")
        if is_name and args[0] not in COMMANDS and not ctx.resilient_parsing:
            ctx.fail(f"there is no command {args[0]!r}{_suggestion(args[0])}")
        return super().resolve_command(ctx, args)

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[CompletionItem]:
        """Commands and options that begin like this, without importing commands."""
        listed = [
            CompletionItem(name, help=text)
            for name, (_, text) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        # click's own version would import every command
        return [*listed, *click.Command.shell_complete(self, ctx, incomplete)]

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # what click's own signature says
    ) -> click.Context:
        """The context of a run; prints the help if requested."""
        with _ending_with_its_reader():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command and flush its output."""
        with _ending_with_its_reader():
            result: object = super().invoke(ctx)
            sys.stdout.flush()
            return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,  # what click's own signature says
    ) -> NoReturn:
        """Run a command and end the process with its exit code."""
        try:
            status = super().main(
                args, prog_name or "genie", complete_var, standalone_mode=False, **extra
            )
        except (click.ClickException, click.Abort, GenieError, ImportError) as error:
            sys.exit(_failed(error))
        except UnicodeEncodeError:
            _say("an argument is not UTF-8 text; convert it first")
            sys.exit(2)
        except OSError as error:
            what = f": {error.filename}" if error.filename else ""
            _drop_output()
            _say(f"{error.strerror or error}{what}; fix that and try again")
            sys.exit(1)
        # without its standalone mode click returns what a command gave to ctx.exit()
        sys.exit(status if isinstance(status, int) else 0)


def exit_code(error: GenieError) -> int:
    """The exit code of an error.

    >>> exit_code(errors.UnknownModel("no model x")), exit_code(errors.JobFailed("no"))
    (5, 1)
    """
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


def sentence(error: GenieError) -> str:
    """An error as one line, with the request id for the cloud's logs."""
    if error.request_id is None:
        return error.message
    return f"{error.message} (request {error.request_id})"


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"max_content_width": 88})
@click.version_option(__version__, prog_name="genie")
@click.pass_context
def genie(ctx: click.Context) -> None:
    """Use a fleet of machines with open-weights models.

    The cloud's address and key come from GENIE_URL and GENIE_API_KEY, or from what
    `genie up` saved on this machine.
    """
    if ctx.obj is None:
        ctx.obj = CommandSession()


@contextmanager
def _ending_with_its_reader() -> Iterator[None]:
    """End as other programs do when the reader of their output went away."""
    try:
        yield
    except BrokenPipeError:
        _drop_output()
        raise click.exceptions.Exit(READER_GONE) from None


def _drop_output() -> None:
    """Drop output that cannot be written; Python would complain at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(
    error: click.ClickException | click.Abort | GenieError | ImportError,
) -> int:
    """Print an error in one line; returns the exit code."""
    if isinstance(error, click.Abort):
        return 130
    if isinstance(error, GenieError):
        _say(sentence(error))
        return exit_code(error)
    if isinstance(error, NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return 2
    if isinstance(error, click.ClickException):
        said = textwrap.shorten(error.format_message(), LONGEST_USAGE)
        _say(f"{said.rstrip('.')}{_usage_hint(error, said)}")
        return 2
    if not isinstance(error, ModuleNotFoundError):
        raise error
    _say(_missing(error))
    return 2


def _missing(error: ModuleNotFoundError) -> str:
    package = (error.name or "").partition(".")[0]
    if package in ("", "genie", "workers", "cloud_app", "migrations"):
        raise error  # a bug of ours, not a missing package
    return (
        f"this command needs {package}, which is not installed; install Genie Fleet "
        "with its extra [cloud] or [worker]"
    )


def _suggestion(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, COMMANDS, n=1)
    return f"; did you mean `genie {close[0]}`?" if close else ""


def _usage_hint(error: click.ClickException, said: str) -> str:
    ctx = cast(click.UsageError, error).ctx if hasattr(error, "ctx") else None
    if ctx is None:
        return ""
    see = f"see `{ctx.command_path} --help`"
    return f" {see.capitalize()}" if said.endswith("?") else f"; {see}"


def _say(message: str) -> None:
    lines = " ".join(line.strip() for line in message.splitlines() if line.strip())
    note(f"genie: {lines}")
