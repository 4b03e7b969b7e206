"""Write docs/reference/settings.md, cli.md and sdk.md from the code they describe.

python scripts/reference.py          write both pages
python scripts/reference.py --check  end with status 1 if a page is not current
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import click

import genie as sdk
from cloud_app.settings import CloudSettings
from genie import errors
from genie.cli.root import COMMANDS, EPILOG, genie
from genie.env import ClientSettings
from genie.sdk.batches import Batches, BatchOptions
from genie.sdk.chat import AskOptions
from genie.sdk.files import Files
from genie.sdk.schedules import ScheduleOptions
from genie.sdk.verbs import JobListFilters
from workers.settings import WorkerSettings

PAGES = Path(__file__).parents[1] / "docs" / "reference"
WIDTH = 88

SETTINGS_HEAD = """\
# Settings

<!-- Made by scripts/reference.py from the code; change it there. -->

Each process reads its settings from environment variables once, when it starts. If any
is wrong or missing, the process does not start and names all of them at once.
"""

CLI_HEAD = """\
# The genie command

<!-- Made by scripts/reference.py from the code; change it there. -->

On a terminal, lists are tables that fit it, with ages ("3 min"). In a pipe they are
tab-separated lines without headings, with all columns and ISO 8601 times. Commands that
print something take `--json`: one JSON value, or one per line from commands that act on
several things or follow one (`jobs cancel`, `jobs events`, `batch results` …).

Standard input is added to the prompt of `ask`, `submit`, `route` and `schedule add`; in
a script whose standard input is something else, use `< /dev/null`. Ctrl-C stops a
waiting command, not the job, and says which command follows it; only `genie ask`
cancels its job. Messages go to stderr. An error is one sentence that ends with the next
step. Colours follow `NO_COLOR`, widths `COLUMNS`.
"""

SDK_HEAD = """\
# The Python SDK

<!-- Made by scripts/reference.py from the code; change it there. -->

Install the wheel ([how](../../README.md#add-a-machine)), then `import genie`. The
functions of the package use a client made from the current settings: `GENIE_URL` and
`GENIE_API_KEY`, or what `genie up` saved on this machine. `Client` is a client of any
cloud and key; `AsyncClient` has the same methods for async programs. A test runs every
example on this page against a fleet that answers with the words of the question;
`client` is `genie.Client()`.

Errors are classes of `genie.errors`; each message ends with the next step, and the
cloud's logs contain its `request_id`. The package is typed: with a `schema`, `ask` and
`submit` return a result whose `parsed` has that type.
"""

SDK_SAME = """\
These do what the methods of `Client` of the same name do:
{}."""

SDK_CLASSES: tuple[tuple[str, type], ...] = (
    ("Client", sdk.Client),
    ("Job", sdk.Job),
    ("Result", sdk.Result),
    ("Alternative", sdk.Alternative),
    ("Stream", sdk.Stream),
    ("Schedule", sdk.Schedule),
    ("Batch", sdk.Batch),
    ("BatchResult", sdk.BatchResult),
    ("Batches", Batches),
    ("Files", Files),
    ("AsyncClient", sdk.AsyncClient),
    ("AsyncJob", sdk.AsyncJob),
    ("AsyncStream", sdk.AsyncStream),
)
"""The methods of the async classes follow the others and are not repeated."""

SDK_OPTIONS: tuple[tuple[str, type], ...] = (
    ("a question", AskOptions),
    ("a schedule, besides", ScheduleOptions),
    ("a batch, besides", BatchOptions),
    ("Client.jobs", JobListFilters),
)

PARTS: tuple[tuple[str, str, type], ...] = (
    ("The cloud", "web, brain and beat; the same values for all three", CloudSettings),
    ("A worker", "the machine that computes", WorkerSettings),
    ("The SDK and the command line", "people and their programs", ClientSettings),
)


def settings_page() -> str:
    """The whole settings page."""
    return SETTINGS_HEAD + "".join(settings_part(*part) for part in PARTS)


def settings_part(title: str, who: str, settings: type) -> str:
    """One table: variable, meaning, default."""
    rows = [settings_row(item) for item in fields(settings)]
    head = f"\n## {title}\n\nRead by: {who}.\n\n| variable | meaning | default |\n"
    return head + "|---|---|---|\n" + "".join(rows)


def settings_row(item: "Field[Any]") -> str:
    """One line of a table."""
    variable, meaning = item.metadata["variable"], item.metadata["help"]
    return f"| `{variable}` | {meaning} | {default_of(item)} |\n"


def default_of(item: "Field[Any]") -> str:
    """How a default is shown: a value, or that it depends on the machine."""
    if item.default_factory is not MISSING:
        return "by machine"
    if item.default is MISSING:
        return "**required**"
    if item.default is None:
        return "–"
    value = item.default.name if isinstance(item.default, Path) else item.default
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def cli_page() -> str:
    """The whole page of commands."""
    root = click.Context(genie, info_name="genie")
    parts = [CLI_HEAD, f"\n{EPILOG}\n"]
    for name in COMMANDS:
        command = genie.get_command(root, name)
        if command is not None:
            parts += command_parts(command, click.Context(command, root, name))
    return "".join(parts)


def command_parts(command: click.Command, context: click.Context) -> Iterator[str]:
    """A command's own help, then that of its subcommands."""
    context.max_content_width = context.terminal_width = WIDTH
    yield f"\n## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if child is not None:
            yield from command_parts(child, click.Context(child, context, name))


def sdk_page() -> str:
    """The whole page of the SDK."""
    parts = [SDK_HEAD, "\n## Options\n\n| of | |\n|---|---|\n"]
    parts += [options_row(*one) for one in SDK_OPTIONS]
    parts.append("\n## Functions\n")
    made = {name: getattr(sdk, name) for name in sorted(sdk.__all__)}
    functions = {name: one for name, one in made.items() if inspect.isfunction(one)}
    same = [name for name, one in functions.items() if hasattr(one, "__wrapped__")]
    parts.append(f"\n{SDK_SAME.format(' '.join(f'`{name}`' for name in same))}\n")
    parts += [entry(f"genie.{n}", f) for n, f in functions.items() if n not in same]
    for name, kind in SDK_CLASSES:
        parts.append(f"\n## {name}\n\n{markdown(inspect.getdoc(kind) or '')}\n")
        if not name.startswith("Async"):
            parts += [entry(f"{name}.{verb}", one) for verb, one in verbs(kind)]
    parts.append(f"\n## Errors\n\n{markdown(inspect.cleandoc(errors.__doc__ or ''))}\n")
    return "".join(parts)


def options_row(title: str, options: type) -> str:
    """One line of names; what a TypedDict inherits is said elsewhere."""
    known = (
        set()
        if options in (AskOptions, JobListFilters)
        else set(AskOptions.__annotations__)
    )
    names = [f"`{name}`" for name in options.__annotations__ if name not in known]
    return f"| {title} | {' '.join(names)} |\n"


def verbs(kind: type) -> Iterator[tuple[str, Callable[..., object]]]:
    """The public methods of a class, by name."""
    for name, one in inspect.getmembers(kind, inspect.isroutine):
        if not name.startswith("_"):
            yield name, one


def entry(name: str, function: Callable[..., object]) -> str:
    """A heading with how it is called, and its text."""
    given = inspect.signature(function).parameters.values()
    words = [bare_parameter(one) for one in given if one.name != "self"]
    stars = [one.kind is inspect.Parameter.KEYWORD_ONLY for one in given]
    if any(stars):
        words.insert(stars.index(True) - (len(stars) - len(words)), "*")
    text = markdown(inspect.getdoc(function) or "")
    return f"\n### {name}({', '.join(words)})\n\n{text}\n"


def bare_parameter(one: inspect.Parameter) -> str:
    """A parameter without its type."""
    return str(one.replace(annotation=inspect.Parameter.empty))


def markdown(text: str) -> str:
    """A docstring as markdown: its examples fenced, its names in code."""
    parts = text.replace("``", "`").split("\n\n")
    return "\n\n".join(
        f"```pycon\n{one}\n```" if ">>>" in one else one for one in parts
    )


def main(arguments: list[str]) -> int:
    """Write the pages, or tell which are not current."""
    pages = {
        "settings.md": settings_page(),
        "cli.md": cli_page(),
        "sdk.md": sdk_page(),
    }
    stale = [name for name, text in pages.items() if current(name) != text]
    if "--check" in arguments:
        for name in stale:
            sys.stderr.write(f"docs/reference/{name} is not current; run: make docs\n")
        return 1 if stale else 0
    for name in stale:
        (PAGES / name).write_text(pages[name], encoding="utf-8")
    return 0


def current(name: str) -> str | None:
    """What the page says now."""
    page = PAGES / name
    return page.read_text(encoding="utf-8") if page.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
