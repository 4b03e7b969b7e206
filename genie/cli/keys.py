"""``genie keys``: list, create and revoke API keys."""

import click

from genie.cli import hints
from genie.cli.output import (
    CommandSession,
    ListGroup,
    as_json,
    note,
    show_done,
    show_json,
    show_table,
)
from genie.cli.values import age, when

COLUMNS = ("key", "name", "prefix", "admin", "models", "age", "revoked")


@click.group(cls=ListGroup)
def keys() -> None:
    """List, create and revoke your org's API keys; needs an admin key."""


@keys.command("list")
@as_json
@click.pass_obj
def list_keys(session: CommandSession, as_json: bool) -> None:
    """List the keys, without their secrets."""
    found = session.connect().keys()
    if as_json:
        show_json(found)
        return
    rows = [
        (
            key.id,
            key.name,
            key.prefix,
            key.is_admin,
            "all" if key.allowed_models is None else key.allowed_models,
            age(key.created_at),
            when(key.revoked_at),
        )
        for key in found
    ]
    show_table(session, COLUMNS, rows, spare=("models", "age", "admin"), none="no keys")


@keys.command()
@click.argument("name")
@click.option("--admin", is_flag=True, help="May see workers, keys and join tokens.")
@click.option(
    "--model",
    "models",
    shell_complete=hints.model,
    multiple=True,
    help="Only this model; repeatable.",
)
@as_json
@click.pass_obj
def create(
    session: CommandSession,
    name: str,
    admin: bool,
    models: tuple[str, ...],
    as_json: bool,
) -> None:
    """Create a key; it is shown only now."""
    made = session.connect().create_key(name, admin=admin, models=models)
    if as_json:
        show_json(made)
        return
    click.echo(made.secret)
    note("genie: copy the key now, it is not shown again")


@keys.command()
@click.argument("key", shell_complete=hints.key)
@as_json
@click.pass_obj
def revoke(session: CommandSession, key: str, as_json: bool) -> None:
    """Revoke a key by its id or prefix; it stops working at once."""
    session.connect().revoke_key(key)
    show_done(session, as_json, {"key": key, "revoked": True}, (key, "revoked"))
