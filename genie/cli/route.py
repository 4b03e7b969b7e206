"""``genie route``: where a question would go, and why."""

import click

from genie.cli import hints
from genie.cli.ask import piped
from genie.cli.output import CommandSession, as_json, show_card, show_json

NO_CAPACITY = 3


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "-p", "--persona", shell_complete=hints.persona, help="Kind of work, e.g. review."
)
@click.option(
    "-m", "--model", shell_complete=hints.model, help="This very model, or a tier."
)
@as_json
@click.pass_context
def route(
    ctx: click.Context,
    prompt: str | None,
    persona: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Show where a question would go now, and why; nothing runs.

    Text on standard input joins the prompt: its length decides too.

    Ends with 3 when it would be refused.
    """
    session: CommandSession = ctx.obj
    question = "\n\n".join(part for part in (prompt, piped()) if part) or None
    found = session.connect().route(question, persona=persona, model=model)
    if as_json:
        show_json(found)
    else:
        card = [
            ("refused", found.refused and f"{found.refused}: {found.message}"),
            ("model", found.model),
            ("instead of", found.substituted),
            ("ready", found.ready),
            ("waits", found.waits),
            ("queue", found.queue),
            ("class", found.work_class),
            ("locality", found.locality),
            *(("because", reason) for reason in found.reasons),
            *(("skipped", f"{one.model}: {one.why}") for one in found.skipped),
        ]
        show_card(session, card)
    if found.refused:
        ctx.exit(NO_CAPACITY)
