"""Write docs/reference/settings.md and cli.md from the code they describe.

python scripts/reference.py          write both pages
python scripts/reference.py --check  end with status 1 if a page is not current
"""

import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import click

from cloud_app.settings import CloudSettings
from genie.cli.root import COMMANDS, EPILOG, genie
from genie.env import ClientSettings
from workers.settings import WorkerSettings

PAGES = Path(__file__).parents[1] / "docs" / "reference"
WIDTH = 88

SETTINGS_HEAD = """\
# Settings

<!-- Made by scripts/reference.py from the code; change it there. -->

Every process reads its settings once, from environment variables, when it starts. If
any is wrong or missing the process does not start and names all of them at once.
"""

CLI_HEAD = """\
# The genie command

<!-- Made by scripts/reference.py from the code; change it there. -->

On a terminal lists are tables that fit it, with ages ("3 min"); in a pipe they are
tab-separated lines without headings, with every column and moments in ISO 8601. What
prints something takes `--json`: one JSON value, or one a line from commands that act on
several things or follow one (`jobs cancel`, `jobs events`, `batch results` …).

Text on standard input joins the prompt of `ask`, `submit`, `route` and `schedule add`;
in a script that has a standard input of its own, give `< /dev/null`. Ctrl-C stops a
waiting command and not the job, and says which command follows it; only `genie ask` and
its job are one. Messages go to stderr; an error is one sentence that ends with the next
step. Colours follow `NO_COLOR`, widths `COLUMNS`.
"""

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


def main(arguments: list[str]) -> int:
    """Write the pages, or tell which are not current."""
    pages = {"settings.md": settings_page(), "cli.md": cli_page()}
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
