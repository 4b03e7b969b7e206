"""``genie dead-letters``: list, show, replay and discard dead letters."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click
import msgspec

from genie.cli import hints
from genie.cli.output import (
    CommandSession,
    ListGroup,
    as_json,
    show_card,
    show_done,
    show_json,
    show_list,
)
from genie.cli.values import age, when

if TYPE_CHECKING:
    from genie.api_types import DeadLetterAnswer

COLUMNS: dict[str, Callable[["DeadLetterAnswer"], object]] = {
    "letter": lambda letter: letter.id,
    "queue": lambda letter: letter.queue,
    "model": lambda letter: letter.model,
    "class": lambda letter: letter.work_class,
    "reason": lambda letter: letter.reason,
    "age": lambda letter: age(letter.died_at),
    "bytes": lambda letter: letter.size_bytes,
}
NONE = "no dead letters: every message could be served"


@click.group("dead-letters", cls=ListGroup)
def dead_letters() -> None:
    """Look at messages that no worker could serve; needs an admin key."""


@dead_letters.command("list")
@as_json
@click.pass_obj
def list_letters(session: CommandSession, as_json: bool) -> None:
    """List your org's dead letters, oldest first, without their text."""
    found = session.connect().dead_letters()
    spare = ("bytes", "queue", "class")
    show_list(session, as_json, found, COLUMNS, spare=spare, none=NONE)


@dead_letters.command()
@click.argument("letter_id", metavar="LETTER", shell_complete=hints.letter)
@click.option("--text", is_flag=True, help="Show its prompt too; this is audited.")
@as_json
@click.pass_obj
def show(session: CommandSession, letter_id: str, text: bool, as_json: bool) -> None:
    """Show one dead letter and why it died."""
    letter = session.connect().dead_letter(letter_id, text=text)
    if as_json:
        show_json(letter)
        return
    show_card(session, _card(letter))
    if letter.content is not None:
        click.echo(
            f"\n{msgspec.json.format(msgspec.json.encode(letter.content)).decode()}"
        )


@dead_letters.command()
@click.argument(
    "letter_ids",
    metavar="LETTER...",
    shell_complete=hints.letter,
    nargs=-1,
    required=True,
)
@as_json
@click.pass_obj
def replay(session: CommandSession, letter_ids: tuple[str, ...], as_json: bool) -> None:
    """Put the jobs of dead letters back into their queues."""
    client = session.connect()
    for letter_id in letter_ids:
        job = client.replay_dead_letter(letter_id)
        show_done(session, as_json, job, (job.id, job.status.value))


@dead_letters.command()
@click.argument(
    "letter_ids",
    metavar="LETTER...",
    shell_complete=hints.letter,
    nargs=-1,
    required=True,
)
@as_json
@click.pass_obj
def discard(
    session: CommandSession, letter_ids: tuple[str, ...], as_json: bool
) -> None:
    """Remove dead letters for good; their jobs stay failed."""
    client = session.connect()
    for letter_id in letter_ids:
        client.discard_dead_letter(letter_id)
        discarded = {"id": letter_id, "discarded": True}
        show_done(session, as_json, discarded, (letter_id, "discarded"))


def _card(letter: "DeadLetterAnswer") -> list[tuple[str, object]]:
    return [
        ("letter", letter.id),
        ("reason", letter.why or letter.reason),
        ("queue", letter.source or letter.queue),
        ("model", letter.model),
        ("class", letter.work_class),
        ("persona", letter.persona),
        ("died", when(letter.died_at)),
        ("bytes", letter.size_bytes),
    ]
